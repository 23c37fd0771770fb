import { join64, type GuestMemory } from '../kvm/guest-memory.ts';
import type { Chain, ChainFault } from './chain.ts';
import { GuestWords32 } from './guest-words.ts';

/** Flags of a descriptor (VIRTIO 1.2, 2.7.5 "The Virtqueue Descriptor Table"). */
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const DESCRIPTOR_SIZE = 16;
/** bytes in one chain (2.7.5) */
const CHAIN_LIMIT = 2 ** 32;

/**
 * Turns the descriptors of a request into a {@link Chain}. The driver may change a descriptor at any time, so each
 * word is read once, and what was checked is what is used.
 */
export class ChainWalker {
  readonly #memory: GuestMemory;
  readonly #table: GuestWords32;
  readonly #size: number;
  readonly #indirect: boolean;

  /** @param descriptors address of the descriptor table, `size` entries, checked to be RAM */
  constructor(memory: GuestMemory, descriptors: number, size: number, indirect: boolean) {
    this.#memory = memory;
    this.#table = new GuestWords32(memory, descriptors, 4 * size);
    this.#size = size;
    this.#indirect = indirect;
  }

  /** Fills `chain` from its head on. With a fault, what the chain holds is of no use. */
  walk(chain: Chain): ChainFault | undefined {
    const table = this.#table;
    const size = this.#size;
    chain.readable.clear();
    chain.writable.clear();
    let index = chain.head;
    // A loop ends here as well: no chain is longer than the queue (2.7.5.1).
    for (let count = 0; count < size; count++) {
      const at = 4 * index;
      const address = join64(table.get(at), table.get(at + 1));
      const length = table.get(at + 2);
      const last = table.get(at + 3);
      if ((last & INDIRECT) !== 0) {
        if (!this.#indirect) return 'indirect-not-negotiated';
        if ((last & NEXT) !== 0) return 'indirect-with-next';
        return this.#walkTable(chain, address, length, count);
      }
      const fault = this.#add(chain, address, length, (last & WRITE) !== 0);
      if (fault !== undefined) return fault;
      if ((last & NEXT) === 0) return undefined;
      index = last >>> 16;
      if (index >= size) return 'next-out-of-range';
    }
    return 'too-long';
  }

  /** The end of a chain in a table of its own (2.7.5.3), after `before` descriptors of the ring. */
  #walkTable(chain: Chain, table: number, bytes: number, before: number): ChainFault | undefined {
    const memory = this.#memory;
    const entries = bytes / DESCRIPTOR_SIZE;
    if (bytes === 0 || bytes % DESCRIPTOR_SIZE !== 0 || entries > this.#size) return 'indirect-length';
    if (!memory.contains(table, bytes)) return 'indirect-outside-ram';
    let index = 0;
    for (let count = before; count < this.#size; count++) {
      const at = table + DESCRIPTOR_SIZE * index;
      const address = join64(memory.readU32(at), memory.readU32(at + 4));
      const length = memory.readU32(at + 8);
      const last = memory.readU32(at + 12);
      if ((last & INDIRECT) !== 0) return 'nested-indirect';
      const fault = this.#add(chain, address, length, (last & WRITE) !== 0);
      if (fault !== undefined) return fault;
      if ((last & NEXT) === 0) return undefined;
      index = last >>> 16;
      if (index >= entries) return 'next-out-of-range';
    }
    return 'too-long';
  }

  #add(chain: Chain, address: number, length: number, writable: boolean): ChainFault | undefined {
    if (length === 0) return 'zero-length';
    if (!this.#memory.contains(address, length)) return 'outside-ram';
    if (writable) chain.writable.add(address, length);
    else if (chain.writable.count > 0) return 'readable-after-writable';
    else chain.readable.add(address, length);
    return chain.readable.byteLength + chain.writable.byteLength > CHAIN_LIMIT ? 'over-4-gib' : undefined;
  }
}
