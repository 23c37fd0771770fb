import type { AccessSize, Bus, ReadMode, RegionHandle } from '../../kvm/bus.ts';
import { join64 } from '../../kvm/guest-memory.ts';
import type { MemoryRange } from '../../boot/layout.ts';
import type { BarRegion, PciBar } from '../../virtio/pci-function.ts';
import type { RegisterImage } from '../../virtio/register-image.ts';
import { BAR_TYPE, CONFIG } from './registers.ts';

type Bar = PciBar & {
  readonly all: readonly BarRegion[];
  /** where it is on the bus */
  at: number | undefined;
  placed: { readonly region: BarRegion; readonly handle: RegionHandle }[];
};

/** Offset of a BAR's register in configuration space. */
const registerOf = (index: number): number => CONFIG.bars + 4 * index;

/**
 * The BARs of one function (PCI Local Bus Specification 3.0, 6.2.5): their registers in configuration space, and
 * what is behind them on the bus. A BAR is on the bus while memory decode is on and its address lies in one of the
 * bridge's windows, where nothing else is.
 */
export class Bars {
  readonly #bus: Bus;
  readonly #windows: readonly MemoryRange[];
  readonly #config: RegisterImage;
  readonly #bars: readonly Bar[];

  /** @param extra regions that are not the function's own, by BAR index */
  constructor(
    bus: Bus,
    windows: readonly MemoryRange[],
    config: RegisterImage,
    bars: readonly PciBar[],
    extra: ReadonlyMap<number, readonly BarRegion[]>,
  ) {
    this.#bus = bus;
    this.#windows = windows;
    this.#config = config;
    this.#bars = bars.map((bar) => ({
      ...bar,
      all: [...bar.regions, ...(extra.get(bar.index) ?? [])],
      at: undefined,
      placed: [],
    }));
  }

  /** Puts types and addresses into the registers, and marks in `writable` which of their bits software sets. */
  initialize(addresses: ReadonlyMap<number, number>, writable: Uint8Array): void {
    const mask = new DataView(writable.buffer, writable.byteOffset);
    for (const { index, width, size, prefetchable = false } of this.#bars) {
      const at = registerOf(index);
      const address = addresses.get(index) ?? 0;
      const type = (width === 64 ? BAR_TYPE.memory64 : 0) | (prefetchable ? BAR_TYPE.prefetchable : 0);
      this.#config.set32(at, (address % 2 ** 32) + type);
      // Sizing: bits below the size stay 0 whatever is written.
      mask.setUint32(at, 2 ** 32 - Math.min(size, 2 ** 32), true);
      if (width === 64) {
        this.#config.set32(at + 4, Math.floor(address / 2 ** 32));
        mask.setUint32(at + 4, 2 ** 32 - Math.max(Math.floor(size / 2 ** 32), 1), true);
      }
    }
  }

  /** Makes the bus follow the registers. @param decode whether the function answers to memory accesses */
  update(decode: boolean): void {
    // First take away, then place: two BARs may change places.
    const wanted = this.#bars.map((bar) => (decode ? this.#address(bar) : undefined));
    this.#bars.forEach((bar, i) => {
      if (bar.at !== undefined && bar.at !== wanted[i]) this.#unplace(bar);
    });
    this.#bars.forEach((bar, i) => {
      const address = wanted[i];
      if (address !== undefined && bar.at === undefined) this.#place(bar, address);
    });
  }

  /** A read of registers in a BAR, wherever that is; all ones where there are none. */
  read(index: number, offset: number, size: AccessSize): number {
    const found = this.#find(index, offset, size);
    if (found === undefined) return 2 ** (8 * size) - 1;
    const { region, at } = found;
    const modes = new Set<ReadMode>(
      Array.from({ length: size }, (_, i) =>
        typeof region.reads === 'string' ? region.reads : region.reads[at + i]!,
      ),
    );
    const value = modes.has('trap') ? (region.read?.(at, size) ?? 0) : region.image.get(at, size);
    if (modes.has('consume')) region.consumed?.(at, size, value >>> 0);
    return (value >>> 0) % 2 ** (8 * size);
  }

  write(index: number, offset: number, size: AccessSize, value: number): void {
    const found = this.#find(index, offset, size);
    if (found === undefined) return;
    const { writes } = found.region;
    const ignored =
      typeof writes === 'string'
        ? writes === 'ignore'
        : writes.slice(found.at, found.at + size).every((mode) => mode === 'ignore');
    if (!ignored) found.region.write?.(found.at, size, value);
  }

  #find(index: number, offset: number, size: number): { region: BarRegion; at: number } | undefined {
    const region = this.#bars
      .find((bar) => bar.index === index)
      ?.all.find((each) => offset >= each.offset && offset + size <= each.offset + each.image.size);
    return region && { region, at: offset - region.offset };
  }

  #address({ index, width, size }: Bar): number | undefined {
    const at = registerOf(index);
    const low = this.#config.get(at, 4) & ~0xf;
    const address = join64(low, width === 64 ? this.#config.get(at + 4, 4) : 0);
    const inside = this.#windows.some(
      ({ base, size: room }) => address >= base && address + size <= base + room,
    );
    return inside ? address : undefined;
  }

  #place(bar: Bar, address: number): void {
    bar.at = address;
    for (const region of bar.all) {
      const base = address + region.offset;
      let handle: RegionHandle;
      try {
        handle = this.#bus.add({ ...region, space: 'mmio', base, size: region.image.size });
      } catch (error) {
        // The guest has put it where something else is: it is nowhere then.
        this.#unplace(bar);
        if (!(error instanceof RangeError)) throw error;
        return;
      }
      bar.placed.push({ region, handle });
      region.image.bind(handle.shadow);
      region.placed?.(base);
    }
  }

  #unplace(bar: Bar): void {
    for (const { region, handle } of bar.placed) {
      region.unplaced?.();
      region.image.unbind();
      handle.remove();
    }
    bar.placed = [];
    bar.at = undefined;
  }
}
