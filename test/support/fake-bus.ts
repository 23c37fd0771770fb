import type {
  AccessSize,
  Bus,
  BusRegion,
  EdgeLine,
  IrqLine,
  ReadMode,
  RegionHandle,
  RegionSpace,
} from '../../src/kvm/bus.ts';

/** From the fastest to the slowest; an access over several bytes follows the slowest. */
const READS: readonly ReadMode[] = ['counter', 'shadow', 'ordered', 'consume', 'leased', 'take', 'trap'];

/** What a `take` byte reads as, and what that leaves. */
type Take = { value: number; left: number; taken: boolean };

class Region implements RegionHandle {
  readonly spec: BusRegion;
  readonly shadow: Uint8Array;
  readonly takes: Take[];
  readonly #bus: FakeBus;
  index = 0;
  counterStart = 0;
  removed = false;
  count = 0;
  /** in milliseconds of the bus's clock */
  leasedUntil = 0;

  constructor(bus: FakeBus, spec: BusRegion) {
    this.#bus = bus;
    this.spec = spec;
    const modes = typeof spec.reads === 'string' ? [spec.reads] : spec.reads;
    // as in the addon: none where no mode reads it
    const hasShadow = modes.some((mode) => ['shadow', 'ordered', 'consume', 'leased'].includes(mode));
    this.shadow = new Uint8Array(hasShadow ? spec.size : 0);
    const taken = modes.includes('take') ? spec.size : 0;
    this.takes = Array.from({ length: taken }, () => ({ value: 0, left: 0, taken: false }));
  }

  get counter(): number {
    return this.countAt(this.#bus.uptime());
  }

  set counter(value: number) {
    this.counterStart += value - this.counter;
  }

  /** @param now nanoseconds since the VM's creation */
  countAt(now: number): number {
    const { hz, bits } = this.spec.counter ?? { hz: 0, bits: 32 };
    const count = this.counterStart + Math.floor((now * hz) / 1e9);
    return count - Math.floor(count / 2 ** bits) * 2 ** bits;
  }

  reads(): number {
    return this.count;
  }

  lease(ms: number): void {
    // As the addon refuses it.
    if (!(ms >= 0 && ms * 1000 < 2 ** 32)) throw new RangeError(`a lease of ${ms} ms`);
    this.leasedUntil = ms === 0 ? 0 : this.#bus.clock() + ms;
  }

  offer(offset: number, value: number, left: number): boolean {
    if (this.takes[offset]!.taken) return false;
    this.takes[offset] = { value, left, taken: false };
    return true;
  }

  remove(): void {
    this.removed = true;
  }

  readMode(offset: number, size: number): ReadMode {
    const { reads } = this.spec;
    const modes = Array.from({ length: size }, (_, i) =>
      typeof reads === 'string' ? reads : reads[offset + i]!,
    );
    const mode = READS[Math.max(...modes.map((each) => READS.indexOf(each)))]!;
    return mode === 'take' && size > 1 ? 'trap' : mode;
  }
}

type Posted = { readonly region: Region; readonly run: () => void; readonly fence: boolean };

/**
 * A bus without a VM, with the semantics the addon gives the modes: posted writes really wait in a ring until
 * something drains it, so that a device which depends on being called at once fails here as it would in a VM.
 */
export class FakeBus implements Bus {
  readonly #regions: Region[] = [];
  #ring: Posted[] = [];
  /** reads and writes that would have made the vCPU wait */
  waits = 0;
  /** nanoseconds since the VM's creation, for counters */
  uptime: () => number = () => 0;
  /** milliseconds, for leases */
  clock: () => number = () => performance.now();

  add(spec: BusRegion): RegionHandle {
    const other = this.#regions.find(
      (r) =>
        !r.removed &&
        r.spec.space === spec.space &&
        r.spec.base < spec.base + spec.size &&
        spec.base < r.spec.base + r.spec.size,
    );
    if (other) throw new RangeError(`${spec.name} overlaps ${other.spec.name}`);
    const region = new Region(this, spec);
    this.#regions.push(region);
    return region;
  }

  /** What the event loop does when it wakes up. */
  drain(): void {
    const ring = this.#ring;
    this.#ring = [];
    for (const { region, run } of ring) if (!region.removed) run();
  }

  /** A guest's read. @param now see {@link FakeBus.uptime} */
  read(space: RegionSpace, address: number, size: AccessSize, now = this.uptime()): number {
    const region = this.#find(space, address, size);
    if (!region) return 2 ** (8 * size) - 1;
    const { spec } = region;
    const offset = address - spec.base;
    const { window } = spec;
    if (window !== undefined) {
      if (isCut(window, offset, size)) {
        const pieces = cut(window, offset, size);
        return pieces.reduce(
          (value, { at, size: part }) => value + this.read(space, address + at, part, now) * 2 ** (8 * at),
          0,
        );
      }
      if (offset >= window.data.offset && offset < window.data.offset + window.data.size) {
        const target = targetOf(region, offset);
        return target === undefined ? 2 ** (8 * size) - 1 : this.read(window.space, target, size, now);
      }
    }
    return this.#serve(region, offset, size, now);
  }

  /** A guest's write. */
  write(space: RegionSpace, address: number, size: AccessSize, value: number): void {
    const region = this.#find(space, address, size);
    if (!region) return;
    const { spec } = region;
    const offset = address - spec.base;
    const { window } = spec;
    if (window !== undefined) {
      if (isCut(window, offset, size)) {
        for (const { at, size: part } of cut(window, offset, size)) {
          this.write(space, address + at, part, (value >>> (8 * at)) % 2 ** (8 * part));
        }
        return;
      }
      if (offset >= window.data.offset && offset < window.data.offset + window.data.size) {
        const target = targetOf(region, offset);
        if (target !== undefined) this.write(window.space, target, size, value);
        return;
      }
      if (offset === window.index.offset && size === window.index.size) {
        region.index = value >>> 0;
        return;
      }
    }
    const modes = Array.from({ length: size }, (_, i) =>
      typeof spec.writes === 'string' ? spec.writes : spec.writes[offset + i]!,
    );
    if (modes.includes('trap')) {
      this.waits++;
      this.drain();
      spec.write?.(offset, size, value >>> 0);
    } else if (modes.includes('posted') || modes.includes('stream')) {
      const run = (): void => spec.write?.(offset, size, value >>> 0);
      this.#ring.push({ region, run, fence: modes.includes('posted') });
    } else if (modes.includes('clear') && size === 4 && offset % 4 === 0) {
      this.#clear(region, value);
    }
  }

  #clear({ spec, shadow }: Region, bits: number): void {
    for (let i = 0; i < 4; i++) Atomics.and(shadow, spec.clears! + i, ~(bits >>> (8 * i)) & 0xff);
  }

  #serve(region: Region, offset: number, size: AccessSize, now: number): number {
    const { spec, shadow } = region;
    region.count++;
    const fromShadow = (): number => {
      let value = 0;
      for (let i = size - 1; i >= 0; i--) value = value * 256 + shadow[offset + i]!;
      return value;
    };
    const trap = (): number => {
      this.waits++;
      this.drain();
      return ((spec.read?.(offset, size) ?? 0) >>> 0) % 2 ** (8 * size);
    };
    switch (region.readMode(offset, size)) {
      case 'shadow':
        return fromShadow();
      case 'counter':
        return region.countAt(now) % 2 ** (8 * size);
      case 'trap':
        return trap();
      case 'leased':
        this.#order(region);
        return this.clock() < region.leasedUntil ? fromShadow() : trap();
      case 'take': {
        this.#order(region);
        const offered = region.takes[offset]!;
        const { value, left } = offered;
        const changes = value !== left;
        offered.value = left;
        offered.taken ||= changes;
        const run = (): void => {
          if (changes) offered.taken = false;
          spec.consumed?.(offset, size, value);
        };
        this.#ring.push({ region, run, fence: false });
        return value;
      }
      case 'ordered':
        this.#order(region);
        return fromShadow();
      case 'consume': {
        this.#order(region);
        const value = fromShadow();
        this.#ring.push({ region, run: () => spec.consumed?.(offset, size, value), fence: true });
        return value;
      }
    }
  }

  /** Waits for the writes that a read must see the effect of; in the ring, all before them come first. */
  #order(region: Region): void {
    const own = region.spec.order === 'own';
    const last = this.#ring.findLastIndex((posted) => !own || (posted.region === region && posted.fence));
    if (last < 0) return;
    this.waits++;
    const due = this.#ring.slice(0, last + 1);
    this.#ring = this.#ring.slice(last + 1);
    for (const posted of due) if (!posted.region.removed) posted.run();
  }

  #find(space: RegionSpace, address: number, size: AccessSize): Region | undefined {
    return this.#regions.find(
      ({ spec, removed }) =>
        !removed && spec.space === space && address >= spec.base && address + size <= spec.base + spec.size,
    );
  }
}

type Window = NonNullable<BusRegion['window']>;

/** Whether an access goes over a border. */
function isCut({ index, data }: Window, offset: number, size: number): boolean {
  const crosses = (from: number, length: number): boolean => {
    const touches = offset < from + length && from < offset + size;
    return touches && !(offset >= from && offset + size <= from + length);
  };
  return (index.size === 1 && crosses(index.offset, 1)) || crosses(data.offset, data.size);
}

/** The pieces of an access over a border, as the addon makes them. */
function cut(window: Window, offset: number, size: number): { at: number; size: AccessSize }[] {
  const pieces: { at: number; size: AccessSize }[] = [];
  for (let at = 0; at < size;) {
    const most = size - at >= 4 ? 4 : size - at >= 2 ? 2 : 1;
    const part = isCut(window, offset + at, most) ? 1 : most;
    pieces.push({ at, size: part });
    at += part;
  }
  return pieces;
}

/** Where an access to a data byte goes; undefined where there is nothing. */
function targetOf({ spec, index }: Region, offset: number): number | undefined {
  const { match, address, base, data } = spec.window!;
  if (match !== undefined && (index & match.mask) >>> 0 !== match.value >>> 0) return undefined;
  const parts = address.reduce((sum, { mask, shift }) => sum + ((index & mask) >>> 0) * 2 ** shift, 0);
  return base + parts + offset - data.offset;
}

/** An interrupt line that remembers. */
export class FakeIrq implements IrqLine, EdgeLine {
  level = false;
  /** rising edges so far */
  edges = 0;

  set(high: boolean): void {
    if (high && !this.level) this.edges++;
    this.level = high;
  }

  pulse(): void {
    this.edges++;
  }
}
