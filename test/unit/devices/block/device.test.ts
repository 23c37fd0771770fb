/** The device around its requests: configuration, cache modes, reset, pause, limits, errors of the host. */
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { IO, type IoRing } from '../../../../src/kvm/io-ring.ts';
import {
  blockFixture,
  content,
  F,
  ranged,
  read,
  S,
  T,
  write,
  type BlockFixture,
  type BlockFixtureOptions,
} from '../../../support/virtio/block.ts';
import { canMount, mountTmpfs } from '../../../support/scratch-mounts.ts';
import { Rig } from '../../../support/virtio/rig.ts';

const SIZE = 1 << 18;
const WRITEBACK = 32;

const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

type Bench = BlockFixture & { readonly rig: Rig };

function rigged(options: BlockFixtureOptions = {}, transport: 'mmio' | 'pci' = 'pci'): Bench {
  const fixture = blockFixture(options);
  cleanups.push(() => fixture.close());
  return { ...fixture, rig: new Rig(fixture.device, { transport, memory: 'one window' }) };
}

function start(options: BlockFixtureOptions = {}, transport: 'mmio' | 'pci' = 'pci'): Bench {
  const bench = rigged(options, transport);
  bench.rig.start({ queueSize: 64 });
  return bench;
}

/** Brings the driver to DRIVER_OK with these of the low feature bits alone. */
function startWith(rig: Rig, bits: readonly number[]): void {
  rig.driver.status = 0;
  rig.driver.status = 1;
  rig.driver.status = 3;
  rig.driver.acceptFeatures(0, bits.reduce((word, bit) => word | (1 << bit), 0) >>> 0);
  rig.driver.acceptFeatures(1, 1);
  rig.driver.status = 0x0b;
  rig.queues = [rig.setUpQueue(0)];
  rig.driver.status = 0x0f;
  rig.machine.settle();
}

const ask = async (rig: Rig, pieces: Parameters<Rig['ask']>[1], queue = 0): Promise<number> => {
  const { reply } = await rig.ask(rig.queue(queue), pieces);
  rig.buffers.clear();
  return reply.at(-1)!;
};

/** Counts what the ring is asked for. */
function countOperations(ring: IoRing): number[] {
  const counts = Array<number>(6).fill(0);
  const queue = ring.queue.bind(ring);
  vi.spyOn(ring, 'queue').mockImplementation((...args) => {
    counts[args[0]]!++;
    queue(...args);
  });
  return counts;
}

describe('the configuration space', () => {
  const u32 = (rig: Rig, at: number): number => rig.driver.readConfig(at, 4);

  test('tells capacity, segments, blocks and limits at their places (5.2.4)', () => {
    const { rig, disk } = rigged({ queues: 3, queueSize: 128 });
    const { driver } = rig;
    expect([u32(rig, 0), u32(rig, 4)]).toEqual([SIZE / 512, 0]);
    expect(u32(rig, 12)).toBe(126);
    expect(u32(rig, 20)).toBe(512);
    expect(driver.readConfig(24, 1)).toBe(Math.log2(disk.blockSize / 512));
    expect(driver.readConfig(25, 1)).toBe(0);
    expect(driver.readConfig(26, 2)).toBe(disk.blockSize / 512);
    expect(u32(rig, 28)).toBe(0);
    expect(driver.readConfig(WRITEBACK, 1)).toBe(1);
    expect(driver.readConfig(33, 1)).toBe(0);
    expect(driver.readConfig(34, 2)).toBe(3);
    expect(u32(rig, 36)).toBe(2 ** 22 - 8);
    expect(u32(rig, 40)).toBe(32);
    expect(u32(rig, 44)).toBe(disk.discardGranularity / 512);
    expect(u32(rig, 48)).toBe(2 ** 22 - 8);
    expect(u32(rig, 52)).toBe(32);
    expect(driver.readConfig(56, 1)).toBe(1);
    expect(rig.device.config.bytes).toHaveLength(60);
  });

  test('of 4096-byte blocks says so', () => {
    const { rig } = rigged({ blockSize: 4096 });
    expect(u32(rig, 20)).toBe(4096);
    expect(rig.driver.readConfig(24, 1)).toBe(0);
    expect(rig.driver.readConfig(26, 2)).toBe(1);
    expect(u32(rig, 0)).toBe(SIZE / 512);
  });

  test('offers features by what the disk can do', () => {
    const offered = (options: BlockFixtureOptions): number[] => {
      const { device } = rigged(options);
      return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => device.features.has(bit));
    };
    expect(offered({})).toEqual([2, 6, 9, 10, 11, 13, 14]);
    expect(offered({ queues: 2 })).toEqual([2, 6, 9, 10, 11, 12, 13, 14]);
    expect(offered({ readOnly: true })).toEqual([2, 5, 6, 9, 10, 11]);
  });

  test('tells of a resize by an interrupt, and the new end holds at once', async () => {
    const { rig, disk, device } = start();
    expect(await ask(rig, read(SIZE / 512, 512))).toBe(S.ioError);
    rig.driver.interrupts();
    await disk.resize(2 * SIZE);
    device.resized();
    expect(rig.driver.interrupts().config).toBe(true);
    expect(u32(rig, 0)).toBe((2 * SIZE) / 512);
    expect(await ask(rig, read(SIZE / 512, 512))).toBe(S.ok);
    await disk.resize(SIZE / 2);
    device.resized();
    expect(u32(rig, 0)).toBe(SIZE / 1024);
    expect(await ask(rig, read(SIZE / 1024, 512))).toBe(S.ioError);
  });

  test.each([0, 65, 1.5])('%d is no number of queues', (queues) => {
    expect(() => rigged({ queues })).toThrow(RangeError);
  });
});

describe('the cache mode', () => {
  test('writeback: a write completes without a sync, a flush is one', async () => {
    const { rig, ring } = start();
    const counts = countOperations(ring);
    await ask(rig, write(0, content(1, 512)));
    expect(counts[IO.sync]).toBe(0);
    await ask(rig, [{ bytes: new Uint8Array([T.flush, ...Array<number>(15).fill(0)]) }, { room: 1 }]);
    expect(counts[IO.sync]).toBe(1);
  });

  test('writethrough, chosen by the driver: each write, zeros too, is followed by a sync', async () => {
    const { rig, ring } = start();
    rig.driver.writeConfig(WRITEBACK, 1, 0);
    rig.machine.settle();
    const counts = countOperations(ring);
    expect(await ask(rig, write(0, content(1, 512)))).toBe(S.ok);
    expect(counts[IO.sync]).toBe(1);
    expect(await ask(rig, ranged(T.writeZeroes, { sector: 0, sectors: 1 }, { sector: 4, sectors: 1 }))).toBe(
      S.ok,
    );
    expect(counts[IO.sync]).toBe(2);
    await ask(rig, read(0, 512));
    expect(counts[IO.sync]).toBe(2);
    rig.driver.writeConfig(WRITEBACK, 1, 1);
    rig.machine.settle();
    await ask(rig, write(0, content(1, 512)));
    expect(counts[IO.sync]).toBe(2);
  });

  test('a driver that negotiates neither flush nor the choice gets writethrough (5.2.6.2)', async () => {
    const { rig, ring } = rigged();
    startWith(rig, []);
    const counts = countOperations(ring);
    await ask(rig, write(0, content(1, 512)));
    expect(counts[IO.sync]).toBe(1);
  });

  test('a driver that negotiates flush alone gets writeback', async () => {
    const { rig, ring } = rigged();
    startWith(rig, [F.flush]);
    const counts = countOperations(ring);
    await ask(rig, write(0, content(1, 512)));
    expect(counts[IO.sync]).toBe(0);
  });

  test('a driver that can choose and cannot flush begins with writethrough', async () => {
    const { rig, ring } = rigged();
    startWith(rig, [F.configWce]);
    expect(rig.driver.readConfig(WRITEBACK, 1)).toBe(0);
    const counts = countOperations(ring);
    await ask(rig, write(0, content(1, 512)));
    expect(counts[IO.sync]).toBe(1);
  });

  test('unsafe: nothing is synced', async () => {
    const { rig, ring } = start({ cache: 'unsafe' });
    rig.driver.writeConfig(WRITEBACK, 1, 0);
    rig.machine.settle();
    const counts = countOperations(ring);
    expect(await ask(rig, write(0, content(1, 512)))).toBe(S.ok);
    expect(
      await ask(rig, [{ bytes: new Uint8Array([T.flush, ...Array<number>(15).fill(0)]) }, { room: 1 }]),
    ).toBe(S.ok);
    expect(counts[IO.sync]).toBe(0);
  });

  test('is writeback again after a reset', async () => {
    const { rig } = start();
    rig.driver.writeConfig(WRITEBACK, 1, 0);
    rig.driver.status = 0;
    await rig.machine.until(() => rig.driver.status === 0);
    rig.start();
    expect(rig.driver.readConfig(WRITEBACK, 1)).toBe(1);
  });

  test('is saved and restored', async () => {
    const { rig, device } = start();
    rig.driver.writeConfig(WRITEBACK, 1, 0);
    rig.machine.settle();
    await rig.core.pause();
    expect(device.save()).toEqual({ writeback: 0 });
    const other = rigged();
    other.device.restore({ writeback: 0 });
    expect(other.rig.driver.readConfig(WRITEBACK, 1)).toBe(0);
  });

  test.each([undefined, {}, { writeback: 2 }, { writeback: true }, { writeback: 1, more: 0 }])(
    'a state of %j is refused',
    (state) => {
      expect(() => rigged().device.restore(state)).toThrow(/state of block0/);
    },
  );
});

describe('reset, pause and the end', () => {
  const flood = (rig: Rig, count = 16): void => {
    const queue = rig.queue(0);
    for (let i = 0; i < count / 2; i++) {
      queue.chain(queue.place(write(8 * i, content(8 * i, 1024))), { indirect: true });
      queue.chain(queue.place(read(8 * i, 1024)), { indirect: true });
    }
    queue.publish();
    rig.driver.notify(0);
    rig.machine.notifier.deliver();
  };

  test.each(['mmio', 'pci'] as const)(
    'a reset over %s with I/O in flight ends it first',
    async (transport) => {
      const { rig, disk } = rigged({}, transport);
      for (let round = 0; round < 20; round++) {
        rig.start({ queueSize: 64, bits: [28] });
        flood(rig);
        rig.driver.status = 0;
        await rig.machine.until(() => rig.driver.status === 0);
        expect(disk.inFlight).toBe(0);
      }
      rig.start({ queueSize: 64 });
      expect(await ask(rig, read(0, 512))).toBe(S.ok);
    },
  );

  test('a pause ends with nothing in flight and everything taken answered', async () => {
    const { rig, disk } = rigged();
    rig.start({ queueSize: 64, bits: [28] });
    flood(rig);
    await rig.core.pause();
    expect(disk.inFlight).toBe(0);
    const queue = rig.queue(0);
    expect((queue.deviceIndex - queue.usedIndex) & 0xffff).toBe(16);
    rig.core.save();
  });

  test('requests made during a pause are served after it', async () => {
    const { rig } = rigged();
    rig.start({ queueSize: 64, bits: [28] });
    await rig.core.pause();
    flood(rig, 10);
    await rig.machine.pass(5);
    const queue = rig.queue(0);
    expect(queue.hasUsed).toBe(false);
    rig.core.resume();
    await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === 10);
  });

  test('several segments of a discard stop with a reset', async () => {
    const { rig, disk } = start();
    const list = Array.from({ length: 32 }, (_, i) => ({ sector: 8 * i, sectors: 8 }));
    rig.send(rig.queue(0), ranged(T.discard, ...list));
    rig.machine.notifier.deliver();
    rig.driver.status = 0;
    await rig.machine.until(() => rig.driver.status === 0);
    expect(disk.inFlight).toBe(0);
  });

  test('each of several queues is served', async () => {
    const { rig } = rigged({ queues: 4 });
    rig.start({ queueSize: 16 });
    for (let queue = 0; queue < 4; queue++) {
      const bytes = content(100 + queue, 512);
      expect(await ask(rig, write(queue, bytes), queue)).toBe(S.ok);
      const { reply } = await rig.ask(rig.queue(3 - queue), read(queue, 512));
      expect(Buffer.compare(reply.subarray(0, 512), bytes)).toBe(0);
    }
  });
});

test('what is done is counted, and what fails or has no data is not', async () => {
  const { rig, device } = start();
  expect(await ask(rig, write(0, content(1, 1024)))).toBe(S.ok);
  expect(await ask(rig, read(0, 512))).toBe(S.ok);
  expect(await ask(rig, read(1, 4096))).toBe(S.ok);
  expect(await ask(rig, read(SIZE / 512, 512))).toBe(S.ioError);
  expect(
    await ask(rig, [{ bytes: new Uint8Array([T.flush, ...Array<number>(15).fill(0)]) }, { room: 1 }]),
  ).toBe(S.ok);
  expect({ ...device.traffic }).toEqual({ reads: 2, readBytes: 4608, writes: 1, writtenBytes: 1024 });
});

describe('limits on throughput', () => {
  /** Serves so many requests; returns the milliseconds that took. */
  const timed = async (rig: Rig, count: number, length: number): Promise<number> => {
    const queue = rig.queue(0);
    const start = performance.now();
    for (let i = 0; i < count; i++) queue.chain(queue.place(read(i, length)));
    queue.publish();
    rig.driver.notify(0);
    await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === count);
    const took = performance.now() - start;
    for (const { buffers } of queue.collect()) expect(queue.reply(buffers).at(-1)).toBe(S.ok);
    rig.buffers.clear();
    return took;
  };

  test('on operations hold requests back, and let all of them through in the end', async () => {
    const { rig } = start({ rate: { operations: { rate: 100, burst: 10 } } });
    // 10 at once, 10 more at 100 a second
    expect(await timed(rig, 20, 512)).toBeGreaterThan(90);
  });

  test('on bytes hold requests back', async () => {
    const { rig } = start({ rate: { bytes: { rate: 100_000, burst: 4096 } } });
    // a request passes while there is anything in the bucket: 16 KiB less the burst, and less the last one
    expect(await timed(rig, 4, 4096)).toBeGreaterThan(70);
  });

  test('a request larger than the burst passes', async () => {
    const { rig } = start({ rate: { bytes: { rate: 1_000_000, burst: 512 } } });
    await timed(rig, 1, 32768);
  });

  test('that hold requests back do not keep the event loop busy', async () => {
    const { rig } = start({ rate: { operations: { rate: 20, burst: 1 } } });
    const queue = rig.queue(0);
    for (let i = 0; i < 4; i++) queue.chain(queue.place(read(i, 512)));
    queue.publish();
    rig.driver.notify(0);
    rig.machine.settle();
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 100));
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000).toBeLessThan(60);
    await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === 4);
  });

  test('end with a reset, and the next driver is served', async () => {
    const { rig } = start({ rate: { operations: { rate: 50, burst: 1 } } });
    const queue = rig.queue(0);
    for (let i = 0; i < 10; i++) queue.chain(queue.place(read(i, 512)));
    queue.publish();
    rig.driver.notify(0);
    rig.machine.settle();
    rig.driver.status = 0;
    await rig.machine.until(() => rig.driver.status === 0);
    rig.start({ queueSize: 64 });
    expect(await ask(rig, read(0, 512))).toBe(S.ok);
  });

  test('wait while the device is paused, and go on after it', async () => {
    const { rig } = start({ rate: { operations: { rate: 100, burst: 1 } } });
    const queue = rig.queue(0);
    for (let i = 0; i < 10; i++) queue.chain(queue.place(read(i, 512)));
    queue.publish();
    rig.driver.notify(0);
    rig.machine.settle();
    await rig.core.pause();
    const then = queue.deviceIndex;
    await rig.machine.pass(50);
    expect(queue.deviceIndex).toBe(then);
    rig.core.resume();
    await rig.machine.until(() => ((queue.deviceIndex - queue.usedIndex) & 0xffff) === 10);
  });
});

describe('errors of the host', () => {
  test.runIf(canMount)('reach the guest as I/O errors, and the log as one line for many', async () => {
    const mount = mountTmpfs(1 << 20);
    cleanups.unshift(() => mount.release());
    const path = join(mount.folder, 'disk.raw');
    writeFileSync(path, '');
    truncateSync(path, 16 << 20);
    const bench = rigged({ path });
    cleanups.unshift(...cleanups.splice(1));
    bench.rig.start({ queueSize: 64 });
    const statuses = [];
    for (let i = 0; i < 40; i++)
      statuses.push(await ask(bench.rig, write(64 * i, new Uint8Array(32768).fill(1))));
    expect(statuses.slice(0, 30).every((status) => status === S.ok)).toBe(true);
    expect(statuses.slice(32).every((status) => status === S.ioError)).toBe(true);
    expect(bench.lines).toHaveLength(1);
    expect(bench.lines[0]).toMatch(
      /disk\.raw: write of 32768 bytes at 0x[0-9a-f]+ failed: ENOSPC; free space on the host$/,
    );
    expect(await ask(bench.rig, read(0, 512))).toBe(S.ok);
  });
});

test('a file that is read and one that is written at the same time show what was written', async () => {
  const { rig, path } = start({ cache: 'none' });
  const fd = openSync(path, 'r');
  await ask(rig, write(0, content(40, 4096)));
  expect(Buffer.compare(readFileSync(fd).subarray(0, 4096), content(40, 4096))).toBe(0);
  closeSync(fd);
});
