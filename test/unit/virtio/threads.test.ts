import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { Virtqueue } from '../../../src/virtio/queue.ts';

const SIZE = 32;
const REQUESTS = 70_000;
const AT = { descriptors: 0x1000, driver: 0x2000, device: 0x3000, buffers: 0x4000 };

/** Serves a driver that runs on another thread, when that one notifies, until it is done. */
async function serve(eventIdx: boolean, split: boolean): Promise<{ answered: number; kicks: number }> {
  const buffer = new SharedArrayBuffer(0x8000);
  const signals = new Int32Array(new SharedArrayBuffer(8));
  const border = AT.device + 2 * SIZE;
  const memory = new GuestMemory(
    split
      ? [
          { base: 0, bytes: new Uint8Array(buffer, 0, border) },
          { base: border, bytes: new Uint8Array(buffer, border) },
        ]
      : [{ base: 0, bytes: new Uint8Array(buffer) }],
  );
  const queue = new Virtqueue({
    index: 0,
    memory,
    layout: { size: SIZE, descriptors: AT.descriptors, driver: AT.driver, device: AT.device },
    indirect: false,
    eventIdx,
    lifetime: { ended: false },
    host: {
      interrupt: () => {
        Atomics.add(signals, 1, 1);
        Atomics.notify(signals, 1);
      },
      broken: (_, reason) => {
        throw new Error(reason);
      },
      again: () => void setImmediate(() => drain()),
    },
  });
  const drain = (): void =>
    queue.drain(({ head, readable, writable }) => {
      writable.writeU32(0, readable.readU32(0));
      queue.push(head, 4);
    });
  const driver = new URL('../../support/virtio/ring-driver.mjs', import.meta.url);
  const workerData = { buffer, signals, size: SIZE, at: AT, requests: REQUESTS, eventIdx };
  const worker = new Worker(driver, { workerData });
  let result: { answered: number; kicks: number } | undefined;
  let failure: unknown;
  worker.on('message', (message: { answered: number; kicks: number }) => (result = message));
  worker.on('error', (error) => (failure = error));
  let kicks = 0;
  while (result === undefined && failure === undefined) {
    // What an ioeventfd does: many notifications are one event.
    const now = Atomics.load(signals, 0);
    if (now !== kicks) {
      kicks = now;
      drain();
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await worker.terminate();
  if (failure !== undefined) throw failure as Error;
  return result!;
}

test.each([
  { eventIdx: true, split: false },
  { eventIdx: false, split: false },
  { eventIdx: true, split: true },
])(
  'a driver on another thread has every request answered whole, and no notification is lost: %j',
  { timeout: 120_000 },
  async ({ eventIdx, split }) => {
    const { answered, kicks } = await serve(eventIdx, split);
    expect(answered).toBe(REQUESTS);
    // suppression works: not every request is notified
    expect(kicks).toBeLessThan(REQUESTS);
  },
);
