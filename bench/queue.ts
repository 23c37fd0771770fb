/**
 * How many chains a second the device's side of a virtqueue takes and completes: `tsx bench/queue.ts [SECONDS]`.
 * Time is that of pop, push and flush alone; the driver's side refills the ring between measurements.
 */
import { GuestMemory } from '../src/kvm/guest-memory.ts';
import { Virtqueue, type QueueOptions } from '../src/virtio/queue.ts';

const SIZE = 256;
const MIB = 2 ** 20;
const DESCRIPTORS = 0x1_0000;
const AVAILABLE = 0x2_0000;
const USED = 0x3_0000;
const TABLES = 0x10_0000;
const BUFFERS = 0x20_0000;

type Case = {
  readonly name: string;
  /** descriptors a chain; block requests have three */
  readonly length: number;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  /** whether the rings cross borders of windows */
  readonly split: boolean;
};

const CASES: readonly Case[] = [
  { name: 'one descriptor', length: 1, indirect: false, eventIdx: false, split: false },
  { name: 'three descriptors', length: 3, indirect: false, eventIdx: false, split: false },
  { name: 'three, EVENT_IDX', length: 3, indirect: false, eventIdx: true, split: false },
  { name: 'three in an indirect table', length: 3, indirect: true, eventIdx: true, split: false },
  { name: '34 in an indirect table', length: 34, indirect: true, eventIdx: true, split: false },
  { name: 'three, rings across windows', length: 3, indirect: false, eventIdx: true, split: true },
];

function chainsPerSecond({ length, indirect, eventIdx, split }: Case, seconds: number): number {
  const memory = ram(split);
  let interrupts = 0;
  const options: QueueOptions = {
    index: 0,
    memory,
    layout: { size: SIZE, descriptors: DESCRIPTORS, driver: AVAILABLE, device: USED },
    indirect,
    eventIdx,
    lifetime: { ended: false },
    host: {
      interrupt: () => {
        interrupts++;
      },
      broken: (_, reason) => {
        throw new Error(reason);
      },
      again: () => undefined,
    },
  };
  const queue = new Virtqueue(options);
  const heads = prepare(memory, length, indirect);
  let index = 0;
  let written = 0;
  let chains = 0;
  let spent = 0;
  while (spent < seconds * 1000) {
    for (const head of heads) memory.writeU16(AVAILABLE + 4 + 2 * (index++ % SIZE), head);
    index &= 0xffff;
    memory.writeU16(AVAILABLE + 2, index);
    memory.writeU16(AVAILABLE + 4 + 2 * SIZE, index - 1);
    const start = performance.now();
    queue.drain((chain) => {
      written += chain.writableLength;
      queue.push(chain.head, 1);
    });
    spent += performance.now() - start;
    chains += heads.length;
  }
  if (interrupts === 0 || written === 0) throw new Error('the queue did nothing');
  return (1000 * chains) / spent;
}

/** 64 MiB of RAM in one window, or with a border in each part of the queue. */
function ram(split: boolean): GuestMemory {
  const borders = split ? [0, DESCRIPTORS + 0x808, AVAILABLE + 0x102, USED + 0x404, 64 * MIB] : [0, 64 * MIB];
  return new GuestMemory(
    borders.slice(1).map((end, i) => ({ base: borders[i]!, bytes: new Uint8Array(end - borders[i]!) })),
  );
}

/** Writes chains of one readable and else writable descriptors; returns their heads. */
function prepare(memory: GuestMemory, length: number, indirect: boolean): number[] {
  const inRing = indirect ? 1 : length;
  const count = Math.floor(SIZE / inRing);
  const heads: number[] = [];
  for (let chain = 0; chain < count; chain++) {
    const head = chain * inRing;
    heads.push(head);
    const table = indirect ? TABLES + 1024 * chain : DESCRIPTORS + 16 * head;
    for (let i = 0; i < length; i++) {
      const at = table + 16 * i;
      memory.writeU64(at, BUFFERS + 4096 * ((chain * length + i) % 4096));
      memory.writeU32(at + 8, i === length - 1 ? 1 : 512);
      memory.writeU16(at + 12, (i < length - 1 ? 1 : 0) | (i > 0 || length === 1 ? 2 : 0));
      memory.writeU16(at + 14, i < length - 1 ? (indirect ? 0 : head) + i + 1 : 0);
    }
    if (!indirect) continue;
    memory.writeU64(DESCRIPTORS + 16 * head, table);
    memory.writeU32(DESCRIPTORS + 16 * head + 8, 16 * length);
    memory.writeU16(DESCRIPTORS + 16 * head + 12, 4);
  }
  return heads;
}

const seconds = Number(process.argv[2] ?? 1);
for (const each of CASES) {
  chainsPerSecond(each, 0.2);
  const rate = chainsPerSecond(each, seconds);
  console.log(`${each.name.padEnd(30)} ${(rate / 1e6).toFixed(2).padStart(7)} M chains/s`);
}
