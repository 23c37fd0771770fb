import type { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import type { Chain } from '../../../src/virtio/chain.ts';
import { layoutFault, type QueueLayout } from '../../../src/virtio/queue-layout.ts';
import { Virtqueue } from '../../../src/virtio/queue.ts';
import { ChainBuilder, type FuzzSegment } from '../chain-builder.ts';
import type { FuzzTarget } from '../engine.ts';
import { GuardedRam } from '../guarded-ram.ts';
import { QueueModel, type ModelChain } from '../queue-model.ts';
import { Random } from '../random.ts';

/** RAM: 16 KiB, a hole, 4 KiB. Rings in the first two pages, then indirect tables, then buffers. */
const RAM = [
  { base: 0, size: 0x4000 },
  { base: 0x6000, size: 0x1000 },
] as const;
const END = 0x7000;
const TABLES = { base: 0x2000, size: 0x1000 } as const;
const BUFFERS = { base: 0x3000, size: 0x1000 } as const;

/** What RAM has in it before anything is written. */
const noise = new Random(1).fill(new Uint8Array(END));

type Held = { readonly chain: Chain; readonly model: ModelChain };

/** A queue, its model and a driver for both; `step` does one thing that a device or a driver does. */
class Case {
  readonly #random: Random;
  readonly #ram: GuardedRam;
  readonly #layout: QueueLayout;
  readonly #queue: Virtqueue;
  readonly #model: QueueModel;
  readonly #builder: ChainBuilder;
  readonly #lifetime = { ended: false };
  readonly #indirect: boolean;
  #interrupts = 0;
  #slot = 0;
  #held: Held[] = [];
  #collected: number;

  constructor(random: Random) {
    this.#random = random;
    this.#ram = new GuardedRam(random, RAM, noise);
    const { memory } = this.#ram;
    this.#layout = layout(random, memory);
    this.#indirect = random.oneIn(2);
    const eventIdx = random.oneIn(2);
    const start = random.pick([0, 0xfff0, 0xffff, random.below(0x10000)]);
    const { driver, device, size, descriptors } = this.#layout;
    memory.fill(descriptors, 16 * size);
    memory.fill(driver, 6 + 2 * size);
    memory.fill(device, 6 + 8 * size);
    memory.writeU16(driver + 2, start);
    memory.writeU16(device + 2, start);
    this.#collected = start;
    this.#builder = new ChainBuilder(memory, this.#layout, random, TABLES, start);
    this.#queue = new Virtqueue({
      index: 0,
      memory,
      layout: this.#layout,
      indirect: this.#indirect,
      eventIdx,
      lifetime: this.#lifetime,
      host: {
        interrupt: () => {
          this.#interrupts++;
        },
        broken: () => undefined,
        again: () => undefined,
      },
      progress: { available: start, used: start, inFlight: [] },
    });
    this.#model = new QueueModel(new Uint8Array(END), RAM, this.#layout, {
      indirect: this.#indirect,
      eventIdx,
      start,
    });
  }

  run(): void {
    const { size } = this.#layout;
    for (let round = this.#random.between(1, 4); round > 0; round--) {
      this.#drive(this.#random.between(1, Math.min(size, 8)));
      this.#ram.copyTo(this.#model.image);
      this.#serve();
      this.#ram.check(this.#model.image);
      if (this.#interrupts !== this.#model.interrupts) {
        throw new Error(`${this.#interrupts} interrupts, and there should be ${this.#model.interrupts}`);
      }
      if (this.#lifetime.ended !== this.#model.broken)
        throw new Error('a ring is taken for broken, or is not');
      this.#collect();
    }
  }

  /** What a driver does: makes chains available, and once in a while something that it must not do. */
  #drive(count: number): void {
    const random = this.#random;
    const { memory } = this.#ram;
    const { driver, size } = this.#layout;
    for (let i = 0; i < count; i++) {
      const slot = this.#slot++;
      const indirect = this.#indirect || random.oneIn(64);
      this.#builder.add(segments(random, slot), { indirect, fault: random.oneIn(8), slot });
    }
    if (random.oneIn(128)) this.#builder.offer(random.below(size));
    if (random.oneIn(256)) this.#builder.offer(random.pick([size, size + 1, 0xffff]));
    if (random.oneIn(4)) memory.writeU16(driver, random.below(2));
    if (random.oneIn(2)) memory.writeU16(driver + 4 + 2 * size, this.#builder.available - random.below(4));
    this.#builder.publish();
    if (random.oneIn(128))
      this.#builder.publish(this.#builder.available + random.pick([1, -1, size, size + 1, 0x8000]));
  }

  /** What a device does: takes requests, answers now or later and in any order, flushes. */
  #serve(): void {
    const random = this.#random;
    const hold = random.oneIn(3);
    // As drain() does it, step by step.
    this.#queue.disableNotifications();
    this.#model.disable();
    for (let turns = 0; turns < 4; turns++) {
      for (let left = 4 * this.#layout.size; left > 0; left--) {
        const chain = this.#queue.pop();
        const model = this.#model.pop();
        if (chain?.head !== model?.head) {
          throw new Error(`chain ${chain?.head ?? 'none'}, and it should be ${model?.head ?? 'none'}`);
        }
        if (chain === undefined || model === undefined) break;
        const held = { chain, model };
        if (hold && random.oneIn(2)) this.#held.push(held);
        else this.#answer(held);
      }
      if (random.oneIn(2)) {
        for (const held of random.shuffle(this.#held.splice(0))) this.#answer(held);
      }
      this.#queue.flush();
      this.#model.flush();
      const more = this.#queue.enableNotifications();
      if (more !== this.#model.enable())
        throw new Error('the queue and its model do not agree on what is left');
      if (!more) return;
    }
  }

  #answer({ chain, model }: Held): void {
    const { readable, writable, head } = chain;
    if (readable.byteLength !== model.readable.length || writable.byteLength !== model.writable.length) {
      throw new Error(`chain ${head} has another length than it should`);
    }
    // Once the ring is broken the chain is dead: what it would read is of no matter.
    const expected = Uint8Array.from(model.readable, (at) => this.#model.image[at]!);
    const bytes = new Uint8Array(readable.byteLength);
    if (readable.read(0, bytes) !== bytes.length) throw new Error('a short read');
    if (Buffer.compare(bytes, expected) !== 0)
      throw new Error(`chain ${head} brings other bytes than it should`);
    const answer = bytes.subarray(0, writable.byteLength).map((byte) => byte ^ 0xff);
    const written = writable.write(0, answer);
    if (written !== (this.#lifetime.ended ? 0 : answer.length)) throw new Error('a short write');
    this.#queue.push(head, written);
    this.#model.push(model, answer);
  }

  /** The driver takes its descriptors back. */
  #collect(): void {
    const { device, size } = this.#layout;
    const { memory } = this.#ram;
    for (const index = memory.readU16(device + 2); this.#collected !== index;) {
      this.#builder.reclaim(memory.readU32(device + 4 + 8 * (this.#collected % size)));
      this.#collected = (this.#collected + 1) & 0xffff;
    }
  }
}

/** Rings anywhere in the first two pages, so that windows' borders fall into them. */
function layout(random: Random, memory: GuestMemory): QueueLayout {
  const size = 1 << random.below(6);
  for (;;) {
    const found = {
      size,
      descriptors: random.below(0x1f0) * 16,
      driver: random.below(0xfc0) * 2,
      device: random.below(0x7c0) * 4,
    };
    const inside = [
      found.descriptors + 16 * size,
      found.driver + 6 + 2 * size,
      found.device + 6 + 8 * size,
    ].every((end) => end <= TABLES.base);
    if (inside && layoutFault(found, size, memory) === undefined) return found;
  }
}

/** The buffers of one request, which no other request in flight shares. */
function segments(random: Random, slot: number): FuzzSegment[] {
  const readable = random.below(4);
  const writable = readable === 0 ? random.between(1, 3) : random.below(4);
  const room = 64;
  const base = random.oneIn(16) ? 0x6000 : BUFFERS.base;
  let at = base + room * (slot % (0x1000 / room));
  const list: FuzzSegment[] = [];
  for (let i = 0; i < readable + writable; i++) {
    const length = random.between(1, 10);
    list.push({ address: at, length, writable: i >= readable });
    at += length;
  }
  return list;
}

/** The device's side of a virtqueue against a model of it, byte by byte over all of guest RAM. */
export const queueTarget: FuzzTarget = {
  name: 'queue',
  run: (random) => new Case(random).run(),
};
