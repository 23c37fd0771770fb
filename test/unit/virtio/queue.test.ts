import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { Virtqueue, type QueueProgress } from '../../../src/virtio/queue.ts';
import { Arena, DriverQueue, type Buffer } from '../../support/virtio/driver-queue.ts';

const SIZE = 8;

/** A queue and its driver, with nothing between them. */
class Pair {
  readonly memory: GuestMemory;
  readonly driver: DriverQueue;
  readonly queue: Virtqueue;
  readonly lifetime = { ended: false };
  interrupts = 0;
  again = 0;
  broken: string | undefined;

  constructor(options: { eventIdx?: boolean; start?: number; progress?: QueueProgress; from?: Pair } = {}) {
    const { eventIdx = false, start = 0, from } = options;
    this.memory = from?.memory ?? new GuestMemory([{ base: 0, bytes: new Uint8Array(0x20000) }]);
    this.driver =
      from?.driver ??
      new DriverQueue(
        this.memory,
        { rings: new Arena(0x1000, 0x8000), buffers: new Arena(0x8000, 0x20000) },
        0,
        SIZE,
      );
    if (!from) {
      this.driver.availableIndex = this.driver.usedIndex = start;
      this.driver.publish();
      this.memory.writeU16(this.driver.at.device + 2, start);
    }
    this.queue = new Virtqueue({
      index: 0,
      memory: this.memory,
      layout: { size: SIZE, ...this.driver.at },
      indirect: true,
      eventIdx,
      lifetime: this.lifetime,
      host: {
        interrupt: () => {
          this.interrupts++;
        },
        broken: (_, reason) => (this.broken = reason),
        again: () => {
          this.again++;
        },
      },
      progress: options.progress ?? { available: start, used: start, inFlight: [] },
    });
  }

  /** Makes requests available and shows them. */
  offer(count = 1, buffers: readonly Buffer[] = [{ bytes: Uint8Array.of(1, 2, 3) }]): number[] {
    const heads = Array.from({ length: count }, () => this.driver.chain(this.driver.place(buffers)));
    this.driver.publish();
    return heads;
  }
}

describe('requests', () => {
  test('come in the order in which they were made available', () => {
    const pair = new Pair();
    const heads = pair.offer(3);
    const { queue } = pair;
    expect([queue.pop(), queue.pop(), queue.pop(), queue.pop()].map((chain) => chain?.head)).toEqual([
      ...heads,
      undefined,
    ]);
  });

  test('are completed in any order', () => {
    const pair = new Pair();
    const heads = pair.offer(3, [{ room: 4 }]);
    while (pair.queue.pop() !== undefined);
    for (const head of heads.toReversed()) pair.queue.push(head, 1);
    pair.queue.flush();
    expect(pair.driver.collect().map(({ head }) => head)).toEqual(heads.toReversed());
  });

  test('are known by their head while they are in flight, and not longer', () => {
    const pair = new Pair();
    const [head] = pair.offer();
    expect(pair.queue.chain(head!)).toBeUndefined();
    const chain = pair.queue.pop();
    expect(pair.queue.chain(head!)).toBe(chain);
    pair.queue.push(head!, 0);
    expect(pair.queue.chain(head!)).toBeUndefined();
  });

  test('show the driver nothing before the flush', () => {
    const pair = new Pair();
    pair.offer();
    pair.queue.push(pair.queue.pop()!.head, 0);
    expect(pair.driver.hasUsed).toBe(false);
    pair.queue.flush();
    expect(pair.driver.hasUsed).toBe(true);
  });

  test('completed twice, or never given, are a bug of the device', () => {
    const pair = new Pair();
    pair.offer();
    const { head } = pair.queue.pop()!;
    pair.queue.push(head, 0);
    expect(() => pair.queue.push(head, 0)).toThrow(RangeError);
    expect(() => pair.queue.push(SIZE, 0)).toThrow(RangeError);
  });

  test('with more written than there is room for are a bug of the device', () => {
    const pair = new Pair();
    pair.offer(1, [{ room: 4 }]);
    const { head } = pair.queue.pop()!;
    expect(() => pair.queue.push(head, 5)).toThrow(RangeError);
  });

  test('a head that is made available while it is in flight breaks the ring', () => {
    const pair = new Pair();
    const [head] = pair.offer();
    pair.queue.pop();
    pair.driver.available(head!);
    pair.driver.publish();
    expect(pair.queue.pop()).toBeUndefined();
    expect(pair.broken).toMatch(/twice/);
    expect(pair.queue.ended).toBe(true);
  });
});

describe('after the end', () => {
  test('nothing is popped, pushed, flushed or written', () => {
    const pair = new Pair();
    pair.offer(2, [{ room: 4 }]);
    const chain = pair.queue.pop()!;
    const before = pair.memory.read(0, 0x20000);
    pair.lifetime.ended = true;
    expect(chain.writable.write(0, Uint8Array.of(1))).toBe(0);
    expect(chain.writable.fill(0, 4)).toBe(0);
    chain.writable.writeU32(0, 7);
    pair.queue.push(chain.head, 4);
    pair.queue.flush();
    pair.queue.disableNotifications();
    expect(pair.queue.enableNotifications()).toBe(false);
    expect(pair.queue.pop()).toBeUndefined();
    expect(pair.memory.read(0, 0x20000)).toEqual(before);
    expect(pair.interrupts).toBe(0);
  });
});

describe('interrupts', () => {
  test('come once a flush, however many requests it completes', () => {
    const pair = new Pair();
    pair.offer(4);
    pair.queue.drain((chain) => pair.queue.push(chain.head, 0));
    expect(pair.interrupts).toBe(1);
  });

  test('come with used index and elements in place', () => {
    const pair = new Pair();
    const seen: number[] = [];
    const [head] = pair.offer(1, [{ room: 4 }]);
    Object.defineProperty(pair, 'interrupts', {
      get: () => 0,
      set: () => seen.push(...pair.driver.collect().map((used) => used.head)),
    });
    pair.queue.push(pair.queue.pop()!.head, 4);
    pair.queue.flush();
    expect(seen).toEqual([head]);
  });

  test.each([0, 0x7fff, 0xfffe, 0xffff])('with EVENT_IDX at index %i follow the driver', (start) => {
    const pair = new Pair({ eventIdx: true, start });
    const serve = (): number => {
      const before = pair.interrupts;
      pair.offer();
      pair.queue.drain((chain) => pair.queue.push(chain.head, 0));
      pair.driver.collect();
      return pair.interrupts - before;
    };
    // "interrupt me when you have used entry start + 1"
    pair.driver.usedEvent = start + 1;
    expect([serve(), serve(), serve()]).toEqual([0, 1, 0]);
  });

  test('with EVENT_IDX a batch that passes the event index has one', () => {
    const pair = new Pair({ eventIdx: true, start: 0xfffc });
    pair.driver.usedEvent = 0xffff;
    pair.offer(8);
    pair.queue.drain((chain) => pair.queue.push(chain.head, 0));
    expect(pair.interrupts).toBe(1);
  });
});

describe('notifications', () => {
  test('are off while the queue is drained and on afterwards', () => {
    const pair = new Pair();
    pair.offer();
    const wanted: boolean[] = [];
    pair.queue.drain((chain) => {
      wanted.push(pair.driver.notificationsWanted);
      pair.queue.push(chain.head, 0);
    });
    expect(wanted).toEqual([false]);
    expect(pair.driver.notificationsWanted).toBe(true);
  });

  test.each([true, false])(
    'a request that comes while they are enabled is not lost (EVENT_IDX %s)',
    (eventIdx) => {
      const pair = new Pair({ eventIdx });
      expect(pair.queue.pop()).toBeUndefined();
      pair.offer();
      expect(pair.queue.enableNotifications()).toBe(true);
      pair.queue.drain((chain) => pair.queue.push(chain.head, 0));
      expect(pair.driver.hasUsed).toBe(true);
    },
  );

  test('of a driver that never stops leave the event loop its turn', () => {
    const pair = new Pair();
    pair.offer();
    let served = 0;
    pair.queue.drain((chain) => {
      served++;
      pair.queue.push(chain.head, 0);
      pair.queue.flush();
      pair.driver.collect();
      pair.offer();
    });
    expect(served).toBe(2 * SIZE);
    expect(pair.again).toBe(1);
  });

  test('of a driver that makes bad chains without end do as well', () => {
    const pair = new Pair();
    for (let i = 0; i < SIZE; i++) pair.driver.chain([{ address: 2 ** 40, length: 1, writable: false }]);
    pair.driver.publish();
    expect(pair.queue.pop()).toBeUndefined();
    expect(pair.driver.deviceIndex).toBe(SIZE);
    expect(pair.queue.faults.get('outside-ram')).toBe(SIZE);
  });
});

describe('progress', () => {
  test('is taken up by another queue over the same memory, with chains in flight popped again', () => {
    const pair = new Pair();
    const heads = pair.offer(4, [{ room: 4 }]);
    const chains = [pair.queue.pop()!, pair.queue.pop()!, pair.queue.pop()!];
    pair.queue.push(chains[1]!.head, 1);
    const progress = pair.queue.save();
    expect(progress).toEqual({
      available: 3,
      used: 1,
      inFlight: [heads[0], heads[2]].sort((a, b) => a! - b!),
    });
    const next = new Pair({ from: pair, progress });
    const popped = [next.queue.pop(), next.queue.pop(), next.queue.pop()].map((chain) => chain!.head);
    expect(popped.slice(0, 2).sort((a, b) => a - b)).toEqual(progress.inFlight);
    expect(popped[2]).toBe(heads[3]);
    for (const head of popped) next.queue.push(head, 0);
    next.queue.flush();
    expect(pair.driver.collect()).toHaveLength(4);
  });
});

test('a request may have as many descriptors as the queue', () => {
  const pair = new Pair();
  pair.offer(
    1,
    Array.from({ length: SIZE }, () => ({ bytes: Uint8Array.of(9) })),
  );
  expect(pair.queue.pop()?.readable.count).toBe(SIZE);
});
