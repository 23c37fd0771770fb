/** Writes descriptor chains as a driver does, whole by default, with one thing wrong on request. */
import type { GuestMemory } from '../../src/kvm/guest-memory.ts';
import type { QueueLayout } from '../../src/virtio/queue-layout.ts';
import type { Random } from './random.ts';

export type FuzzSegment = { readonly address: number; readonly length: number; readonly writable: boolean };

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

type Descriptor = { address: bigint; length: number; flags: number; next: number };

/** What one fault does to the descriptors of a chain; the last of them may name an indirect table. */
type Fault = (random: Random, chain: Descriptor[], queue: QueueLayout, table: number) => void;

const any = (random: Random, chain: Descriptor[]): Descriptor => random.pick(chain);

const FAULTS: readonly Fault[] = [
  // the indirect table, also from within itself
  (random, chain, _, table) => {
    const at = random.oneIn(2) ? chain.at(-1)! : any(random, chain);
    at.address = BigInt(table);
    at.length = 16 * random.between(1, 4);
    at.flags = INDIRECT | (random.oneIn(4) ? NEXT : 0) | (random.oneIn(4) ? WRITE : 0);
  },
  (random, chain, { size }) => {
    const at = any(random, chain);
    at.flags |= NEXT;
    at.next = random.pick([size, size + 1, 0x7fff, 0xffff]);
  },
  // a loop, mostly
  (random, chain, { size }) => {
    const at = any(random, chain);
    at.flags |= NEXT;
    at.next = random.below(size);
  },
  (random, chain) => (any(random, chain).length = 0),
  (random, chain) =>
    (any(random, chain).length = random.pick([0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 0x10000])),
  (random, chain) => (any(random, chain).address += 1n << BigInt(random.between(12, 63))),
  (random, chain) => (any(random, chain).address = 0xffff_ffff_ffff_ffffn - BigInt(random.below(64))),
  (random, chain) =>
    (any(random, chain).address = random.pick([0x4000n, 0x3ff0n, 0x5000n, 0x6ff8n, 1n << 53n])),
  (random, chain) => (any(random, chain).flags ^= WRITE),
  (random, chain) => (any(random, chain).flags ^= INDIRECT),
  (random, chain) => (any(random, chain).flags ^= NEXT),
  (random, chain) => (any(random, chain).flags ^= 1 << random.below(16)),
  (random, chain) => (any(random, chain).length += random.pick([1, -1, 8, 16])),
  (random, chain) => {
    const at = any(random, chain);
    at.address = BigInt.asUintN(64, at.address ^ (1n << BigInt(random.below(64))));
    at.length = (at.length ^ (1 << random.below(32))) >>> 0;
  },
];

/** The driver's side of a queue in the making. */
export class ChainBuilder {
  readonly #memory: GuestMemory;
  readonly #queue: QueueLayout;
  readonly #random: Random;
  readonly #tables: { readonly base: number; readonly size: number };
  readonly #free: number[];
  /** descriptors of the chains that the device has, by head */
  readonly #owned = new Map<number, number[]>();
  /** free-running index of the available ring */
  available: number;

  /** @param tables room for indirect tables, used over and over */
  constructor(
    memory: GuestMemory,
    queue: QueueLayout,
    random: Random,
    tables: { readonly base: number; readonly size: number },
    available = 0,
  ) {
    this.#memory = memory;
    this.#queue = queue;
    this.#random = random;
    this.#tables = tables;
    this.available = available;
    this.#free = random.shuffle(Array.from({ length: queue.size }, (_, i) => i));
  }

  /**
   * Makes a chain available.
   * @param slot a number for the chain that no other has whose indirect table is in use
   * @returns its head, or undefined where there are not enough descriptors
   */
  add(
    segments: readonly FuzzSegment[],
    options: { readonly indirect: boolean; readonly fault: boolean; readonly slot: number },
  ): number | undefined {
    const random = this.#random;
    const inTable = options.indirect && random.oneIn(2) ? random.between(1, segments.length) : 0;
    const inRing = segments.length - inTable + (inTable > 0 ? 1 : 0);
    if (inRing > this.#free.length) return undefined;
    const indices = this.#free.splice(0, inRing);
    const ring = segments.slice(0, segments.length - inTable).map(describe);
    const table = segments.slice(segments.length - inTable).map(describe);
    const tableAddress = this.#tables.base + 16 * ((options.slot * 8) % (this.#tables.size / 16 - 8));
    if (inTable > 0) {
      ring.push({ address: BigInt(tableAddress), length: 16 * inTable, flags: INDIRECT, next: 0 });
    }
    link(ring, indices);
    link(
      table,
      table.map((_, i) => i),
    );
    if (options.fault) {
      const spoiled = table.length > 0 && random.oneIn(2) ? table : ring;
      random.pick(FAULTS)(random, spoiled, this.#queue, tableAddress);
    }
    ring.forEach((descriptor, i) => this.#write(this.#queue.descriptors + 16 * indices[i]!, descriptor));
    table.forEach((descriptor, i) => this.#write(tableAddress + 16 * i, descriptor));
    const head = indices[0]!;
    this.#owned.set(head, indices);
    this.offer(head);
    return head;
  }

  /** Puts a head into the available ring, whatever it is. */
  offer(head: number): void {
    const { driver, size } = this.#queue;
    this.#memory.writeU16(driver + 4 + 2 * (this.available % size), head);
    this.available = (this.available + 1) & 0xffff;
  }

  publish(index = this.available): void {
    this.#memory.writeU16(this.#queue.driver + 2, index & 0xffff);
  }

  /** The device has used this chain. */
  reclaim(head: number): void {
    this.#free.push(...(this.#owned.get(head) ?? []));
    this.#owned.delete(head);
  }

  #write(at: number, { address, length, flags, next }: Descriptor): void {
    const memory = this.#memory;
    memory.writeU32(at, Number(BigInt.asUintN(32, address)));
    memory.writeU32(at + 4, Number(BigInt.asUintN(32, address >> 32n)));
    memory.writeU32(at + 8, length >>> 0);
    memory.writeU16(at + 12, flags & 0xffff);
    memory.writeU16(at + 14, next & 0xffff);
  }
}

const describe = ({ address, length, writable }: FuzzSegment): Descriptor => ({
  address: BigInt(address),
  length,
  flags: writable ? WRITE : 0,
  next: 0,
});

function link(chain: Descriptor[], indices: readonly number[]): void {
  for (const [i, descriptor] of chain.entries()) {
    if (i + 1 === chain.length) return;
    descriptor.flags |= NEXT;
    descriptor.next = indices[i + 1]!;
  }
}
