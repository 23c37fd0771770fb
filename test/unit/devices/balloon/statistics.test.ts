import { afterEach, describe, expect, test, vi } from 'vitest';
import { BALLOON_F } from '../../../../src/devices/balloon/protocol.ts';
import { drive, newBalloon, statisticsOf, type BalloonRig } from './balloon-rig.ts';

afterEach(() => void vi.useRealTimers());

const FREE = 4;
const TOTAL = 5;

/** The driver makes a buffer available; returns its head. */
function supply({ rig }: BalloonRig, entries: Parameters<typeof statisticsOf>[0]): number {
  const queue = rig.queue(2);
  rig.buffers.clear();
  const head = queue.chain(queue.place([{ bytes: statisticsOf(entries) }]));
  queue.publish();
  rig.driver.notify(2);
  rig.machine.settle();
  return head;
}

/** Whether the device has given the buffer back, which the driver takes then. */
function asked({ rig }: BalloonRig): boolean {
  return rig.queue(2).collect().length > 0;
}

function up(options: Parameters<typeof newBalloon>[0] = {}): BalloonRig {
  const balloon = newBalloon(options);
  drive(balloon, {});
  return balloon;
}

describe('statistics', () => {
  test('of the first buffer are known without a question', () => {
    const balloon = up();
    supply(balloon, [
      [TOTAL, 1000],
      [FREE, 250],
    ]);
    expect(balloon.device.latestStatistics?.values).toEqual({ total: 1000, free: 250 });
    expect(asked(balloon)).toBe(false);
  });

  test('are asked for by giving the buffer back, and are those of the next one', async () => {
    const balloon = up();
    supply(balloon, [[FREE, 1]]);
    const answer = balloon.device.statistics();
    expect(asked(balloon)).toBe(true);
    supply(balloon, [[FREE, 2]]);
    expect(await answer).toEqual({ free: 2 });
    expect(asked(balloon)).toBe(false);
  });

  test('have names for all tags, in any order', () => {
    const balloon = up();
    const tags = [...Array(16).keys()].reverse();
    supply(
      balloon,
      tags.map((tag) => [tag, 100 + tag]),
    );
    expect(balloon.device.latestStatistics?.values).toEqual({
      swapIn: 100,
      swapOut: 101,
      majorFaults: 102,
      minorFaults: 103,
      free: 104,
      total: 105,
      available: 106,
      caches: 107,
      hugetlbAllocations: 108,
      hugetlbFailures: 109,
      oomKills: 110,
      allocationStalls: 111,
      asyncScans: 112,
      directScans: 113,
      asyncReclaims: 114,
      directReclaims: 115,
    });
  });

  test('leave out tags that are not known and values that cannot be', () => {
    const balloon = up();
    supply(balloon, [
      [16, 1],
      [0xffff, 1],
      [FREE, 0xffff_ffff_ffff_ffffn],
      [TOTAL, 2n ** 40n],
    ]);
    expect(balloon.device.latestStatistics?.values).toEqual({ total: 2 ** 40 });
  });

  test('of a buffer that ends within an entry, or has thousands, are those that are whole among the first', () => {
    const balloon = up();
    const { rig } = balloon;
    const queue = rig.queue(2);
    queue.chain(queue.place([{ bytes: statisticsOf([[FREE, 7]]).subarray(0, 9) }]));
    queue.publish();
    rig.driver.notify(2);
    rig.machine.settle();
    expect(balloon.device.latestStatistics?.values).toEqual({});
    void balloon.device.statistics(1);
    expect(asked(balloon)).toBe(true);
    supply(
      balloon,
      Array.from({ length: 5000 }, (_, i) => [FREE, i]),
    );
    expect(balloon.device.latestStatistics?.values).toEqual({ free: 63 });
  });

  test('of a driver that does not answer are undefined in due time', async () => {
    const balloon = up();
    supply(balloon, [[FREE, 1]]);
    expect(await balloon.device.statistics(10)).toBeUndefined();
    // and it may answer the next time
    const answer = balloon.device.statistics();
    supply(balloon, [[FREE, 2]]);
    expect(await answer).toEqual({ free: 2 });
  });

  test('of a driver that never gave a buffer are undefined in due time', async () => {
    expect(await up().device.statistics(10)).toBeUndefined();
  });

  test('are undefined at once without a driver, and without the feature', async () => {
    const none = newBalloon();
    expect(await none.device.statistics(1e6)).toBeUndefined();
    drive(none, { without: [BALLOON_F.statistics] });
    expect(await none.device.statistics(1e6)).toBeUndefined();
  });

  test('that several ask for at once are one question', async () => {
    const balloon = up();
    supply(balloon, [[FREE, 1]]);
    const answers = [balloon.device.statistics(), balloon.device.statistics()];
    expect(asked(balloon)).toBe(true);
    supply(balloon, [[FREE, 2]]);
    expect(await Promise.all(answers)).toEqual([{ free: 2 }, { free: 2 }]);
    expect(asked(balloon)).toBe(false);
  });

  test('end with a reset', async () => {
    const balloon = up();
    supply(balloon, [[FREE, 1]]);
    const answer = balloon.device.statistics(1e6);
    balloon.rig.driver.status = 0;
    expect(balloon.rig.driver.status).toBe(0);
    expect(await answer).toBeUndefined();
    expect(balloon.device.latestStatistics).toBeUndefined();
  });

  test('of a second buffer, which a driver should not have made available, wait until the first is back', async () => {
    const balloon = up();
    supply(balloon, [[FREE, 1]]);
    supply(balloon, [[FREE, 2]]);
    expect(balloon.device.latestStatistics?.values).toEqual({ free: 1 });
    expect(await balloon.device.statistics()).toEqual({ free: 2 });
  });

  test('are not asked for while the machine is paused, but afterwards', async () => {
    const balloon = up();
    supply(balloon, [[FREE, 1]]);
    await balloon.rig.core.pause();
    const answer = balloon.device.statistics();
    balloon.rig.machine.settle();
    expect(asked(balloon)).toBe(false);
    balloon.rig.core.resume();
    expect(asked(balloon)).toBe(true);
    supply(balloon, [[FREE, 2]]);
    expect(await answer).toEqual({ free: 2 });
  });

  test('come by themselves where there is an interval, until a reset', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    const balloon = up({ statisticsInterval: 10 });
    supply(balloon, [[FREE, 1]]);
    vi.advanceTimersByTime(9999);
    expect(asked(balloon)).toBe(false);
    vi.advanceTimersByTime(1);
    expect(asked(balloon)).toBe(true);
    // no answer yet: nothing to ask with
    vi.advanceTimersByTime(10_000);
    supply(balloon, [[FREE, 2]]);
    expect(balloon.device.latestStatistics?.values).toEqual({ free: 2 });
    vi.advanceTimersByTime(10_000);
    expect(asked(balloon)).toBe(true);
    balloon.rig.driver.status = 0;
    expect(balloon.rig.driver.status).toBe(0);
    expect(vi.getTimerCount()).toBe(0);
  });
});
