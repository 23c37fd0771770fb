import {
  GuestFault,
  GuestMemory,
  WINDOW_LIMIT,
  type MemoryWindow,
  type PageReclaim,
} from './guest-memory.ts';
import { native, type HugePages, type NativeMemory } from './native.ts';
import { PAGE_SIZE, PageRanges } from './page-ranges.ts';

export type { HugePages };

/** Where guest memory comes from. */
export type MemoryBacking =
  | { readonly kind: 'anonymous' }
  /** shareable with another process by its descriptor */
  | { readonly kind: 'memfd' }
  /** a file: written back (`shared`), or copied on write and left as it is */
  | { readonly kind: 'file'; readonly path: string; readonly shared: boolean; readonly offset?: number };

export type GuestRamOptions = {
  /** guest-physical ranges, together the whole of RAM; whole pages of 4 KiB */
  readonly ranges: readonly { readonly base: number; readonly size: number }[];
  readonly backing?: MemoryBacking;
  /** default `transparent` */
  readonly hugePages?: HugePages;
};

/** RAM of one VM: one mapping on the host, in it the guest's ranges one after the other. */
export class GuestRam implements PageReclaim {
  readonly memory: GuestMemory;
  /** the ranges with their place in the mapping */
  readonly slots: readonly { readonly base: number; readonly size: number; readonly offset: number }[];
  readonly native: NativeMemory;
  readonly refusal: string | undefined;
  #leaves: 'zeros' | 'file';
  /** offsets in the mapping, for one call */
  readonly #offsets = new PageRanges();

  /** @throws KvmError where the host has not the memory, or the file is not there; RangeError for odd sizes */
  constructor(options: GuestRamOptions) {
    let offset = 0;
    this.slots = options.ranges.map(({ base, size }) => {
      const slot = { base, size, offset };
      offset += size;
      return slot;
    });
    const backing = options.backing ?? { kind: 'anonymous' };
    const hugePages = options.hugePages ?? 'transparent';
    this.#leaves = backing.kind === 'file' ? 'file' : 'zeros';
    this.refusal = refusalOf(backing, hugePages);
    const common = { size: offset, hugePages };
    this.native = new (native().Memory)(
      backing.kind === 'file'
        ? {
            ...common,
            backing: 'file',
            path: backing.path,
            shared: backing.shared,
            offset: backing.offset ?? 0,
          }
        : { ...common, backing: backing.kind },
    );
    const windows: MemoryWindow[] = [];
    for (const slot of this.slots) {
      for (let at = 0; at < slot.size; at += WINDOW_LIMIT) {
        const length = Math.min(WINDOW_LIMIT, slot.size - at);
        windows.push({
          base: slot.base + at,
          bytes: new Uint8Array(this.native.window(slot.offset + at, length)),
        });
      }
    }
    this.memory = new GuestMemory(windows, this);
  }

  get leaves(): 'zeros' | 'file' {
    return this.#leaves;
  }

  /**
   * Lays parts of a file over RAM, copied on write. Nothing may run or do I/O meanwhile.
   * @param extents pairs of offset and length, in the file as in RAM; whole pages
   * @throws KvmError, RangeError where the file is shorter than RAM
   */
  mapOver(path: string, extents: Float64Array): void {
    this.native.mapOver(path, extents, extents.length / 2);
    this.#leaves = 'file';
  }

  /**
   * Has parts of RAM in memory of its own, in huge pages where there are any: a guest that is about to touch them meets
   * fewer faults. Nothing may run or do I/O until this has resolved.
   * @param layers the files that RAM lies on, as it was made of them: the lowest, and what was laid over it
   * @param ranges pairs of offset and length
   * @throws KvmError
   */
  async prefetch(
    [lowest, ...above]: readonly { readonly path: string; readonly extents?: Float64Array }[],
    ranges: Float64Array,
  ): Promise<void> {
    const { size } = this.native;
    const file = { backing: 'file', path: lowest!.path, shared: false, offset: 0 } as const;
    const source = new (native().Memory)({ size, hugePages: 'none', ...file });
    for (const { path, extents = new Float64Array() } of above)
      source.mapOver(path, extents, extents.length / 2);
    // Not closed: it is what tells later what has changed.
    await this.native.prefetch(source, ranges, ranges.length / 2);
  }

  discard(ranges: PageRanges): number {
    const offsets = this.#offsets;
    offsets.clear();
    for (let i = 0; i < ranges.count; i++) this.#translate(ranges.address(i), ranges.length(i));
    if (this.refusal !== undefined || offsets.count === 0) return 0;
    this.native.discard(offsets.numbers, offsets.count);
    return offsets.byteLength;
  }

  /** Adds the whole pages of a range, wherever they lie in the mapping. */
  #translate(address: number, length: number): void {
    if (!this.memory.contains(address, length)) throw new GuestFault(address, length);
    const start = Math.ceil(address / PAGE_SIZE) * PAGE_SIZE;
    const end = Math.floor((address + length) / PAGE_SIZE) * PAGE_SIZE;
    for (const slot of this.slots) {
      const from = Math.max(start, slot.base);
      const to = Math.min(end, slot.base + slot.size);
      this.#offsets.add(slot.offset + from - slot.base, to - from);
    }
  }

  /** Gives the pages back at once. Windows that are still held read as zeros. */
  close(): void {
    this.native.close();
  }
}

function refusalOf(backing: MemoryBacking, hugePages: HugePages): string | undefined {
  if (backing.kind === 'file' && backing.shared) return 'RAM is a file that others may share';
  // What goes back to the pool another process may take, and then the guest's next touch would have nothing.
  if (hugePages === '2M' || hugePages === '1G') return 'RAM is huge pages of a pool, reserved for this VM';
  return undefined;
}
