import { closeSync, openSync } from 'node:fs';
import { native, type NativeMemoryImage } from './native.ts';
import type { GuestRam } from './memory.ts';

/** The process's own page tables, opened before a jail closes around it. */
export class PageMap implements Disposable {
  /** -1 where this host has none */
  readonly fd: number;

  constructor() {
    this.fd = openPageMap();
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function openPageMap(): number {
  try {
    return openSync('/proc/self/pagemap', 'r');
  } catch {
    // All of memory has to be looked at then.
    return -1;
  }
}

export type MemoryImageOptions = {
  readonly pageMap: PageMap;
  /** only what has changed since RAM was laid over files. Default false: all of it */
  readonly changedOnly?: boolean;
  /** what is left out or kept together, in bytes; whole pages */
  readonly block: number;
};

/**
 * RAM at the moment at which this is made. Nothing may run or do I/O meanwhile, nor, without `child`, until
 * {@link write} has resolved.
 */
export class MemoryImage {
  readonly #native: NativeMemoryImage;

  /** @throws KvmError: ENOTSUP for changes where the host does not tell */
  constructor(ram: GuestRam, { pageMap, changedOnly = false, block }: MemoryImageOptions) {
    this.#native = new (native().MemoryImage)(ram.native, pageMap.fd, changedOnly, block);
  }

  /** Blocks that are in it as pairs of offset and length, neighbours joined. */
  extents(): Float64Array {
    return this.#native.extents();
  }

  /**
   * Writes what is not zero to its place in a file.
   * @param child by a process of its own with a copy of the memory, while the VM may go on
   * @returns bytes that were written @throws KvmError
   */
  write(fd: number, child: boolean): Promise<number> {
    return this.#native.write(fd, child);
  }
}
