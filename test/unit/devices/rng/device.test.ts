import { describe, expect, test, vi } from 'vitest';
import { EntropyDevice, type EntropyOptions } from '../../../../src/devices/rng/device.ts';
import { DeviceStateError } from '../../../../src/kvm/device-state.ts';
import { Rig } from '../../../support/virtio/rig.ts';
import type { DriverQueue } from '../../../support/virtio/driver-queue.ts';

const KIB = 1024;

function start(options: Partial<EntropyOptions> = {}): {
  rig: Rig;
  device: EntropyDevice;
  queue: DriverQueue;
} {
  const device = new EntropyDevice({ name: 'rng0', ...options });
  const rig = new Rig(device, { transport: 'pci', memory: 'one window' });
  rig.start();
  return { rig, device, queue: rig.queue(0) };
}

/** Makes requests for `room` bytes each available, all over the same memory, and notifies once. */
function demand({ rig, queue }: { rig: Rig; queue: DriverQueue }, count: number, room: number): void {
  const buffer = { address: 0x30000, length: room, writable: true };
  for (let i = 0; i < count; i++) queue.chain([buffer]);
  queue.publish();
  rig.driver.notify(0);
  rig.machine.notifier.deliver();
}

const done = ({ queue }: { queue: DriverQueue }): number => (queue.deviceIndex - queue.usedIndex) & 0xffff;

describe('the entropy device', () => {
  test('gives other bytes each time, of all values', async () => {
    const { rig, queue } = start();
    const seen = new Set<string>();
    const values = new Set<number>();
    for (let i = 0; i < 16; i++) {
      rig.buffers.clear();
      const { reply } = await rig.ask(queue, [{ room: 1 * KIB }]);
      seen.add(Buffer.from(reply).toString('hex'));
      for (const byte of reply) values.add(byte);
    }
    expect(seen.size).toBe(16);
    // 16384 bytes without one of the values: once in 10^25 times
    expect(values.size).toBe(256);
  });

  test('answers a request without room with nothing', async () => {
    const { rig, queue } = start();
    const { written } = await rig.ask(queue, [{ bytes: new Uint8Array(64) }]);
    expect(written).toBe(0);
  });

  test('leaves what the driver gave to read as it was', async () => {
    const { rig, queue } = start();
    const bytes = new Uint8Array(64).fill(0x5a);
    const [given] = queue.place([{ bytes }]);
    queue.chain([given!, ...queue.place([{ room: 8 }])]);
    queue.publish();
    rig.driver.notify(0);
    await rig.machine.until(() => queue.hasUsed);
    expect(queue.collect()).toMatchObject([{ written: 8 }]);
    expect(rig.machine.memory.read(given!.address, 64)).toEqual(bytes);
  });

  test('gives a large request a part of what it has room for, and leaves the rest alone', async () => {
    const { rig, queue } = start();
    const { reply, written } = await rig.ask(queue, [{ room: 40 * KIB }, { room: 40 * KIB }]);
    expect(written).toBe(64 * KIB);
    expect(reply.subarray(64 * KIB).every((byte) => byte === 0xee)).toBe(true);
    expect(reply.subarray(63 * KIB, 64 * KIB).every((byte) => byte === 0xee)).toBe(false);
  });

  test('lets other work in between when much is asked for', async () => {
    const all = start();
    demand(all, 16, 64 * KIB);
    expect(done(all)).toBeGreaterThan(0);
    expect(done(all)).toBeLessThan(16);
    await all.rig.machine.until(() => done(all) === 16);
    expect(all.device.given).toBe(16 * 64 * KIB);
  });

  test('ends with a reset what it was about to go on with', async () => {
    const all = start();
    demand(all, 16, 64 * KIB);
    const before = done(all);
    all.rig.driver.status = 0;
    await all.rig.machine.pass(5);
    expect(done(all)).toBe(before);
  });

  test('gives nothing while it is paused, and all of it afterwards', async () => {
    const all = start();
    demand(all, 16, 64 * KIB);
    await all.rig.core.pause();
    const before = done(all);
    await all.rig.machine.pass(5);
    expect(done(all)).toBe(before);
    all.rig.core.resume();
    await all.rig.machine.until(() => done(all) === 16);
  });

  test('has no state, and takes none', async () => {
    const { rig, device } = start();
    await rig.core.pause();
    expect(device.save()).toEqual({});
    expect(() => device.restore({ seed: 1 })).toThrow(DeviceStateError);
  });
});

describe('a rate limit', () => {
  test('spreads bytes over time, and gives the rest when its time has come', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    try {
      const all = start({ rate: { rate: 64 * KIB, burst: 64 * KIB } });
      demand(all, 10, 32 * KIB);
      // the burst, which the second request uses up
      expect(done(all)).toBe(2);
      // each of the following passes as soon as the one before it is paid for
      vi.advanceTimersByTime(1);
      expect(done(all)).toBe(3);
      vi.advanceTimersByTime(498);
      expect(done(all)).toBe(3);
      vi.advanceTimersByTime(2);
      expect(done(all)).toBe(4);
      vi.advanceTimersByTime(2000);
      expect(done(all)).toBe(8);
    } finally {
      vi.useRealTimers();
    }
  });

  test('that is none is refused', () => {
    expect(() => new EntropyDevice({ name: 'rng0', rate: { rate: 0 } })).toThrow(RangeError);
  });
});
