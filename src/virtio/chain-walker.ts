import { join64, type GuestMemory } from '../kvm/guest-memory.ts';
import type { Chain, ChainFault } from './chain.ts';

/** Flags of a descriptor (VIRTIO 1.2, 2.7.5 "The Virtqueue Descriptor Table"). */
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const DESCRIPTOR_SIZE = 16;
/** bytes in one chain (2.7.5) */
const CHAIN_LIMIT = 2 ** 32;

/** A window of guest memory by words. */
type Words = { readonly base: number; readonly end: number; readonly words: Uint32Array };

/** A descriptor table: in one window, aligned to words, or anywhere. */
type Table = {
  address: number;
  entries: number;
  words: Uint32Array | undefined;
  /** index in `words` of its first word */
  offset: number;
};

/**
 * Turns the descriptors of a request into a {@link Chain}. The driver may change a descriptor at any time, so each
 * word is read once, and what was checked is what is used.
 */
export class ChainWalker {
  readonly #memory: GuestMemory;
  readonly #windows: readonly Words[];
  /** the window that the last buffer was in */
  #last: Words;
  readonly #size: number;
  readonly #indirect: boolean;
  readonly #ring: Table;
  /** the indirect table of the chain at hand */
  readonly #extra: Table = { address: 0, entries: 0, words: undefined, offset: 0 };

  /** @param descriptors address of the descriptor table, `size` entries, checked to be RAM */
  constructor(memory: GuestMemory, descriptors: number, size: number, indirect: boolean) {
    this.#memory = memory;
    this.#windows = memory.windows.map(({ base, bytes }) => ({
      base,
      end: base + bytes.length,
      words:
        bytes.byteOffset % 4 === 0 && base % 4 === 0
          ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2)
          : new Uint32Array(0),
    }));
    this.#last = this.#windows[0]!;
    this.#size = size;
    this.#indirect = indirect;
    this.#ring = { ...this.#extra };
    this.#locate(this.#ring, descriptors, size);
  }

  /** Fills `chain` from its head on. With a fault, what the chain holds is of no use. */
  walk(chain: Chain): ChainFault | undefined {
    chain.readable.clear();
    chain.writable.clear();
    return this.#walk(chain, this.#ring, chain.head, 0);
  }

  /** @param before descriptors that the chain has already */
  #walk(chain: Chain, table: Table, first: number, before: number): ChainFault | undefined {
    const { address: start, entries, words, offset } = table;
    const memory = this.#memory;
    let index = first;
    // A loop ends here as well: no chain is longer than the queue (2.7.5.1, 2.7.5.3.1).
    for (let count = before; count < this.#size; count++) {
      let low, high, length, last: number;
      if (words !== undefined) {
        const at = offset + 4 * index;
        low = words[at]!;
        high = words[at + 1]!;
        length = words[at + 2]!;
        last = words[at + 3]!;
      } else {
        const at = start + DESCRIPTOR_SIZE * index;
        low = memory.readU32(at);
        high = memory.readU32(at + 4);
        length = memory.readU32(at + 8);
        last = memory.readU32(at + 12);
      }
      const address = join64(low, high);
      if ((last & INDIRECT) !== 0) return this.#walkIndirect(chain, table, address, length, last, count);
      if (length === 0) return 'zero-length';
      if (!this.#isRam(address, length)) return 'outside-ram';
      if ((last & WRITE) !== 0) chain.writable.add(address, length);
      else if (chain.writable.count > 0) return 'readable-after-writable';
      else chain.readable.add(address, length);
      if ((last & NEXT) === 0) {
        return chain.readable.byteLength + chain.writable.byteLength > CHAIN_LIMIT ? 'over-4-gib' : undefined;
      }
      index = last >>> 16;
      if (index >= entries) return 'next-out-of-range';
    }
    return 'too-long';
  }

  /** The end of a chain in a table of its own (2.7.5.3). */
  #walkIndirect(
    chain: Chain,
    from: Table,
    address: number,
    bytes: number,
    flags: number,
    count: number,
  ): ChainFault | undefined {
    if (!this.#indirect) return 'indirect-not-negotiated';
    if (from === this.#extra) return 'nested-indirect';
    if ((flags & NEXT) !== 0) return 'indirect-with-next';
    const entries = bytes / DESCRIPTOR_SIZE;
    if (bytes === 0 || bytes % DESCRIPTOR_SIZE !== 0 || entries > this.#size) return 'indirect-length';
    if (!this.#locate(this.#extra, address, entries)) return 'indirect-outside-ram';
    return this.#walk(chain, this.#extra, 0, count);
  }

  /** Sets `table` to where it lies; false where that is not all RAM. */
  #locate(table: Table, address: number, entries: number): boolean {
    table.address = address;
    table.entries = entries;
    const end = address + DESCRIPTOR_SIZE * entries;
    for (const { base, end: limit, words } of this.#windows) {
      if (address < base || end > limit) continue;
      const usable = address % 4 === 0 && words.length > 0;
      table.words = usable ? words : undefined;
      table.offset = usable ? (address - base) / 4 : 0;
      return true;
    }
    table.words = undefined;
    return this.#memory.contains(address, DESCRIPTOR_SIZE * entries);
  }

  #isRam(address: number, length: number): boolean {
    const last = this.#last;
    if (address >= last.base && address + length <= last.end) return true;
    for (const window of this.#windows) {
      if (address < window.base || address >= window.end) continue;
      this.#last = window;
      return address + length <= window.end || this.#memory.contains(address, length);
    }
    return false;
  }
}
