import { GuestMemory, WINDOW_LIMIT, type MemoryWindow } from './guest-memory.ts';
import { native, type HugePages, type NativeMemory } from './native.ts';

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
export class GuestRam {
  readonly memory: GuestMemory;
  /** the ranges with their place in the mapping */
  readonly slots: readonly { readonly base: number; readonly size: number; readonly offset: number }[];
  readonly native: NativeMemory;

  /** @throws KvmError where the host has not the memory, or the file is not there; RangeError for odd sizes */
  constructor(options: GuestRamOptions) {
    let offset = 0;
    this.slots = options.ranges.map(({ base, size }) => {
      const slot = { base, size, offset };
      offset += size;
      return slot;
    });
    const backing = options.backing ?? { kind: 'anonymous' };
    const common = { size: offset, hugePages: options.hugePages ?? 'transparent' };
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
    this.memory = new GuestMemory(windows);
  }

  /** Gives the pages back at once. Windows that are still held read as zeros. */
  close(): void {
    this.native.close();
  }
}
