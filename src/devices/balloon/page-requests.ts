/** What requests of the driver name: page numbers to put into the balloon, ranges of free memory. */
import type { PageRanges } from '../../kvm/page-ranges.ts';
import type { Chain } from '../../virtio/chain.ts';
import { PAGE } from './protocol.ts';

/** What is looked at in one step; a step takes a few milliseconds at most. */
const STEP_PAGES = 4096;
const STEP_BYTES = 32 * 2 ** 20;

/** Reads a request step by step. */
export type PageReader = {
  /**
   * Adds pages to `ranges`, from a position that it has returned before, or 0.
   * @returns the next position, or undefined at the end of the request
   */
  read(chain: Chain, position: number, ranges: PageRanges): number | undefined;
};

/** Guest RAM as ranges, ascending. */
export type RamRanges = readonly { readonly base: number; readonly size: number }[];

/** An array of 32-bit page numbers, in any order (5.5.6). Numbers that are not RAM are counted and left out. */
export class PageNumbers implements PageReader {
  /** page numbers so far that are no RAM of the guest */
  outsideRam = 0;
  readonly #ram: RamRanges;
  readonly #numbers = new Uint32Array(STEP_PAGES);
  readonly #bytes = new Uint8Array(this.#numbers.buffer);

  constructor(ram: RamRanges) {
    this.#ram = ram;
  }

  read({ readable }: Chain, position: number, ranges: PageRanges): number | undefined {
    const total = Math.floor(readable.byteLength / 4);
    const count = Math.min(STEP_PAGES, total - position);
    readable.read(4 * position, this.#bytes.subarray(0, 4 * count));
    this.#add(this.#numbers.subarray(0, count).sort(), ranges);
    return position + count < total ? position + count : undefined;
  }

  /** Sorted numbers become few ranges: a balloon mostly takes neighbours. */
  #add(numbers: Uint32Array, ranges: PageRanges): void {
    const ram = this.#ram;
    let slot = 0;
    let previous = -1;
    for (const number of numbers) {
      const address = number * PAGE;
      while (slot < ram.length && address >= ram[slot]!.base + ram[slot]!.size) slot++;
      const inside = slot < ram.length && address >= ram[slot]!.base;
      if (!inside) this.outsideRam++;
      else if (number !== previous) ranges.add(address, PAGE);
      previous = number;
    }
  }
}

/** Ranges of free memory, given as the buffers themselves (5.5.6.6). The chain holds RAM alone, at most 4 GiB. */
export class FreeRanges implements PageReader {
  read({ writable }: Chain, position: number, ranges: PageRanges): number | undefined {
    let left = STEP_BYTES;
    let skip = position;
    for (let i = 0; i < writable.count; i++) {
      const length = writable.lengths[i]!;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const size = Math.min(length - skip, left);
      ranges.add(writable.addresses[i]! + skip, size);
      left -= size;
      if (left === 0) break;
      skip = 0;
    }
    const next = position + STEP_BYTES - left;
    return left === 0 && next < writable.byteLength ? next : undefined;
  }
}
