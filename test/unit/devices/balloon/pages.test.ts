import { describe, expect, test } from 'vitest';
import { BALLOON_F } from '../../../../src/devices/balloon/protocol.ts';
import { KvmError } from '../../../../src/kvm/errors.ts';
import { HIGH_RAM, LOW_RAM, PAGE } from '../../../support/virtio/machine.ts';
import { drive, inflate, newBalloon, report, WITHOUT_POISON, type BalloonRig } from './balloon-rig.ts';

const first = HIGH_RAM.base / PAGE;

/** A balloon whose driver is up. */
function up(options: Parameters<typeof newBalloon>[0] = {}): BalloonRig {
  const balloon = newBalloon(options);
  drive(balloon, {});
  return balloon;
}

describe('inflating', () => {
  test('gives neighbours back as one range, in whatever order they come', async () => {
    const balloon = up();
    const { memory, reclaim } = balloon.rig.machine;
    memory.fill(HIGH_RAM.base, HIGH_RAM.size, 0x77);
    await inflate(balloon, [first + 2, first + 1, first + 3]);
    expect(reclaim.calls).toEqual([[[HIGH_RAM.base + PAGE, 3 * PAGE]]]);
    const holds = [0, 1, 2, 3].map((page) => memory.readU8(HIGH_RAM.base + page * PAGE));
    expect(holds).toEqual([0x77, 0, 0, 0]);
  });

  test('gives separate pages back in one call', async () => {
    const balloon = up();
    await inflate(balloon, [first + 3, 0x7f, first]);
    expect(balloon.rig.machine.reclaim.calls).toEqual([
      [
        [0x7f * PAGE, PAGE],
        [HIGH_RAM.base, PAGE],
        [HIGH_RAM.base + 3 * PAGE, PAGE],
      ],
    ]);
    expect(balloon.device.counters).toMatchObject({ inflated: 3, reclaimed: 3 * PAGE });
  });

  test('leaves numbers alone that are no RAM, and counts them', async () => {
    const balloon = up();
    const outside = [LOW_RAM / PAGE, first - 1, first + 4, 0xffff_ffff, 0x8000_0000];
    await inflate(balloon, [...outside, first + 1]);
    expect(balloon.rig.machine.reclaim.calls).toEqual([[[HIGH_RAM.base + PAGE, PAGE]]]);
    expect(balloon.device.counters).toMatchObject({ inflated: 1, outsideRam: 5 });
    expect(balloon.rig.driver.status).toBe(0x0f);
  });

  test('takes a number that comes twice for one page', async () => {
    const balloon = up();
    await inflate(balloon, [first, first + 1, first, first + 1, first]);
    expect(balloon.rig.machine.reclaim.calls).toEqual([[[HIGH_RAM.base, 2 * PAGE]]]);
  });

  test('ignores the end of an array that is no whole number', async () => {
    const balloon = up();
    const bytes = new Uint8Array([...new Uint8Array(Uint32Array.of(first).buffer), 1, 0, 0]);
    await balloon.rig.ask(balloon.rig.queue(0), [{ bytes }]);
    expect(balloon.device.counters).toMatchObject({ inflated: 1, outsideRam: 0 });
  });

  test.each([
    ['an empty array', [{ bytes: new Uint8Array(3) }]],
    ['nothing to read', [{ room: 64 }]],
  ])('%s does nothing', async (_, buffers) => {
    const balloon = up();
    const { written } = await balloon.rig.ask(balloon.rig.queue(0), buffers);
    expect(written).toBe(0);
    expect(balloon.rig.machine.reclaim.calls).toEqual([]);
  });

  test('works through a long array in parts', async () => {
    const balloon = up();
    const numbers = Array.from({ length: 50_000 }, (_, i) => (i < 49_999 ? 0x100_0000 + i : first));
    await inflate(balloon, numbers);
    expect(balloon.device.counters).toMatchObject({ inflated: 1, outsideRam: 49_999, reclaimed: PAGE });
  });

  test('lets other work in between, and a reset ends what is left of it', async () => {
    const balloon = up();
    const { rig, device } = balloon;
    const queue = rig.queue(0);
    // the same long array over and over: much more than fits into one turn
    const [array] = queue.place([{ bytes: new Uint8Array(120_000).fill(0xff) }]);
    for (let i = 0; i < 64; i++) queue.chain([array!]);
    queue.publish();
    rig.driver.notify(0);
    rig.machine.notifier.deliver();
    expect(device.counters.outsideRam).toBeGreaterThan(0);
    expect(queue.deviceIndex).toBeLessThan(64);
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0);
    const then = { ...device.counters };
    await rig.machine.pass(10);
    expect(device.counters).toEqual(then);
  });

  test('stops for a pause in the middle of a request, and goes on with it', async () => {
    const { rig, device } = up();
    const queue = rig.queue(0);
    const [array] = queue.place([{ bytes: new Uint8Array(120_000).fill(0xff) }]);
    for (let i = 0; i < 64; i++) queue.chain([array!]);
    queue.publish();
    rig.driver.notify(0);
    rig.machine.notifier.deliver();
    await rig.core.pause();
    const then = { ...device.counters };
    await rig.machine.pass(5);
    expect(device.counters).toEqual(then);
    rig.core.resume();
    await rig.machine.until(() => queue.deviceIndex === 64);
    expect(device.counters.outsideRam).toBe(64 * 30_000);
  });
});

describe('deflating', () => {
  test('is acknowledged, and touches no page', async () => {
    const balloon = up();
    const { rig } = balloon;
    rig.machine.memory.fill(HIGH_RAM.base, HIGH_RAM.size, 0x77);
    const bytes = new Uint8Array(Uint32Array.of(first, 0xffff_ffff).buffer);
    const { written } = await rig.ask(rig.queue(1), [{ bytes }]);
    expect(written).toBe(0);
    expect(rig.machine.reclaim.calls).toEqual([]);
    expect(rig.machine.memory.readU8(HIGH_RAM.base)).toBe(0x77);
  });
});

describe('memory that the host does not take back', () => {
  test('is told of once, when the driver comes up, and requests are acknowledged', async () => {
    const balloon = newBalloon();
    balloon.rig.machine.reclaim.refusal = 'RAM is a file';
    drive(balloon, {});
    await inflate(balloon, [first]);
    await inflate(balloon, [first]);
    expect(balloon.lines).toEqual(['balloon0: what the guest gives up stays allocated: RAM is a file']);
    expect(balloon.device.counters).toMatchObject({ inflated: 2, reclaimed: 0, failures: 0 });
  });

  test('because of an error is counted, told of once with the way out, and requests are acknowledged', async () => {
    const balloon = up();
    balloon.rig.machine.reclaim.error = new KvmError(22, 'madvise', 'discard');
    await inflate(balloon, [first]);
    await inflate(balloon, [first]);
    expect(balloon.lines).toHaveLength(1);
    expect(balloon.lines[0]).toMatch(/^balloon0: .*EINVAL; locked memory/);
    expect(balloon.device.counters).toMatchObject({ reclaimed: 0, failures: 2 });
    expect(balloon.rig.driver.status).toBe(0x0f);
  });
});

describe('free page reporting', () => {
  const pages = [HIGH_RAM.base, 2 * PAGE] as const;
  const other = [0x7e000, PAGE] as const;

  test('gives the ranges of a request back in one call', async () => {
    const balloon = newBalloon();
    drive(balloon, WITHOUT_POISON);
    await report(balloon, balloon.rig.queue(4), pages, other);
    expect(balloon.rig.machine.reclaim.calls).toEqual([[[...pages], [...other]]]);
    expect(balloon.device.counters).toMatchObject({ reported: 3 * PAGE, reclaimed: 3 * PAGE });
  });

  test.each([
    ['full of another value than 0 are left alone', 0xaaaa_aaaa, 'zeros', 0],
    ['full of 0 are given back where they come back so', 0, 'zeros', 1],
    ['full of 0 are left alone where they come back as what is in a file', 0, 'file', 0],
  ] as const)('pages that a driver keeps %s', async (_, poison, leaves, calls) => {
    const balloon = newBalloon();
    balloon.rig.machine.reclaim.leaves = leaves;
    drive(balloon, { poison });
    await report(balloon, balloon.rig.queue(4), pages);
    expect(balloon.rig.machine.reclaim.calls).toHaveLength(calls);
    expect(balloon.device.counters.reported).toBe(2 * PAGE);
  });

  test('of a driver that expects nothing of free pages takes them whatever they come back as', async () => {
    const balloon = newBalloon();
    balloon.rig.machine.reclaim.leaves = 'file';
    drive(balloon, { ...WITHOUT_POISON, poison: 1 });
    await report(balloon, balloon.rig.queue(4), pages);
    expect(balloon.rig.machine.reclaim.calls).toHaveLength(1);
  });

  test.each([
    ['queue 4, as the specification has it', [], [0, 1, 2, 4], 4],
    ['queue 4, as the specification has it, without statistics', [BALLOON_F.statistics], [0, 1, 4], 4],
    ['queue 3, as Linux counts', [], [0, 1, 2, 3], 3],
    ['queue 2, as Linux counts without statistics', [BALLOON_F.statistics], [0, 1, 2], 2],
  ])('comes over %s', async (_, without, queues, index) => {
    const balloon = newBalloon();
    drive(balloon, { without: [...without, BALLOON_F.pagePoison], queues });
    await report(balloon, balloon.rig.queue(index), pages);
    expect(balloon.rig.machine.reclaim.calls).toEqual([[[...pages]]]);
    // what Linux asks of it
    expect(balloon.device.queueSizes[index]).toBeGreaterThanOrEqual(32);
  });

  test('is not offered where it is not wanted', () => {
    const { device } = newBalloon({ freePageReporting: false });
    expect(device.features.has(BALLOON_F.pageReporting)).toBe(false);
    expect(device.features.has(BALLOON_F.pagePoison)).toBe(false);
  });

  test('that was not negotiated gives nothing back', async () => {
    const balloon = newBalloon();
    drive(balloon, { without: [BALLOON_F.pageReporting] });
    const queue = balloon.rig.queue(4);
    queue.chain([{ address: pages[0], length: pages[1], writable: true }]);
    queue.publish();
    balloon.rig.driver.notify(4);
    await balloon.rig.machine.pass(5);
    expect(balloon.rig.machine.reclaim.calls).toEqual([]);
  });
});
