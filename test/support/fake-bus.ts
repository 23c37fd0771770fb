import type { AccessSize, Bus, BusRegion, IrqLine, ReadMode, RegionHandle } from '../../src/kvm/bus.ts';

type Region = { spec: BusRegion; shadow: Uint8Array; removed: boolean; reads: number };
type Posted = { region: Region; run: () => void };

/**
 * A bus without a VM, with the semantics the addon gives the modes: posted writes really wait in a ring until
 * something drains it, so that a device which depends on being called at once fails here as it would in a VM.
 */
export class FakeBus implements Bus {
  readonly #regions: Region[] = [];
  #ring: Posted[] = [];
  /** reads and writes that would have made the vCPU wait */
  waits = 0;

  add(spec: BusRegion): RegionHandle {
    const other = this.#regions.find(
      (r) =>
        !r.removed &&
        r.spec.space === spec.space &&
        r.spec.base < spec.base + spec.size &&
        spec.base < r.spec.base + r.spec.size,
    );
    if (other) throw new RangeError(`${spec.name} overlaps ${other.spec.name}`);
    const shadowed = typeof spec.reads === 'string' ? [spec.reads] : spec.reads;
    // As the addon has it: none where no mode reads it.
    const size = shadowed.some((mode) => mode !== 'trap' && mode !== 'counter') ? spec.size : 0;
    const region: Region = { spec, shadow: new Uint8Array(size), removed: false, reads: 0 };
    this.#regions.push(region);
    return {
      shadow: region.shadow,
      reads: () => region.reads,
      remove: () => {
        region.removed = true;
      },
    };
  }

  /** What the event loop does when it wakes up. */
  drain(): void {
    const ring = this.#ring;
    this.#ring = [];
    for (const { region, run } of ring) if (!region.removed) run();
  }

  /** A guest's read. @param now nanoseconds since the VM's creation, for counters */
  read(space: 'pio' | 'mmio', address: number, size: AccessSize, now = 0): number {
    const region = this.#find(space, address, size);
    if (!region) return 2 ** (8 * size) - 1;
    const { spec, shadow } = region;
    region.reads++;
    const offset = address - spec.base;
    const mode = this.#readMode(spec, offset, size);
    const fromShadow = (): number => {
      let value = 0;
      for (let i = size - 1; i >= 0; i--) value = value * 256 + shadow[offset + i]!;
      return value;
    };
    switch (mode) {
      case 'shadow':
        return fromShadow();
      case 'counter': {
        const { hz, bits } = spec.counter!;
        return Math.floor((now * hz) / 1e9) % 2 ** Math.min(bits, 8 * size);
      }
      case 'trap':
        this.waits++;
        this.drain();
        return ((spec.read?.(offset, size) ?? 0) >>> 0) % 2 ** (8 * size);
      case 'ordered':
      case 'consume': {
        if (this.#ring.length > 0) this.waits++;
        this.drain();
        const value = fromShadow();
        if (mode === 'consume') this.#ring.push({ region, run: () => spec.consumed?.(offset, size) });
        return value;
      }
    }
  }

  /** A guest's write. */
  write(space: 'pio' | 'mmio', address: number, size: AccessSize, value: number): void {
    const region = this.#find(space, address, size);
    if (!region) return;
    const { spec } = region;
    const offset = address - spec.base;
    const modes = [...Array(size).keys()].map((i) =>
      typeof spec.writes === 'string' ? spec.writes : spec.writes[offset + i]!,
    );
    if (modes.includes('trap')) {
      this.waits++;
      this.drain();
      spec.write?.(offset, size, value >>> 0);
    } else if (modes.includes('posted')) {
      this.#ring.push({ region, run: () => spec.write?.(offset, size, value >>> 0) });
    }
  }

  #readMode(spec: BusRegion, offset: number, size: number): ReadMode {
    const order: ReadMode[] = ['counter', 'shadow', 'ordered', 'consume', 'trap'];
    const modes = [...Array(size).keys()].map((i) =>
      typeof spec.reads === 'string' ? spec.reads : spec.reads[offset + i]!,
    );
    return order[Math.max(...modes.map((mode) => order.indexOf(mode)))]!;
  }

  #find(space: string, address: number, size: number): Region | undefined {
    return this.#regions.find(
      ({ spec, removed }) =>
        !removed && spec.space === space && address >= spec.base && address + size <= spec.base + spec.size,
    );
  }
}

/** An interrupt line that remembers. */
export class FakeIrq implements IrqLine {
  level = false;
  /** rising edges so far */
  edges = 0;

  set(high: boolean): void {
    if (high && !this.level) this.edges++;
    this.level = high;
  }
}
