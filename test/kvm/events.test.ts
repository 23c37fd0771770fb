import { afterEach, describe, expect, test, vi } from 'vitest';
import { createEventFd, createTimer } from '../../src/kvm/events.ts';
import { sleep } from '../support/tiny-guests.ts';

const MS = 1e6;

const open: { close(): void }[] = [];
afterEach(() => {
  for (const handle of open.splice(0)) handle.close();
});
const keep = <T extends { close(): void }>(handle: T): T => {
  open.push(handle);
  return handle;
};

describe('EventFd', () => {
  test('counts signals until it is drained', () => {
    const fd = keep(createEventFd());
    expect(fd.drain()).toBe(0);
    fd.signal();
    fd.signal();
    expect(fd.drain()).toBe(2);
    expect(fd.drain()).toBe(0);
  });

  test('calls onEvent while it is watched, with the signals since the last call', async () => {
    const fd = keep(createEventFd());
    const events: number[] = [];
    fd.onEvent = (count) => events.push(count);
    fd.signal();
    fd.signal();
    await sleep(5);
    expect(events).toEqual([]);
    fd.watch();
    fd.watch();
    await vi.waitFor(() => expect(events).toEqual([2]));
    fd.signal();
    await vi.waitFor(() => expect(events).toEqual([2, 1]));
    fd.unwatch();
    fd.unwatch();
    fd.signal();
    await sleep(5);
    expect(events).toEqual([2, 1]);
    expect(fd.drain()).toBe(1);
  });

  test('may be closed, or another one, within the callback', async () => {
    const fds = Array.from({ length: 20 }, () => keep(createEventFd()));
    let calls = 0;
    for (const fd of fds) {
      fd.onEvent = () => {
        calls++;
        for (const each of fds) each.close();
      };
      fd.watch();
    }
    for (const fd of fds) fd.signal();
    await sleep(20);
    // all were ready in one batch: the first one's callback closed the rest
    expect(calls).toBe(1);
  });

  test('without a callback, or with something that is none, nothing happens', async () => {
    const fd = keep(createEventFd());
    fd.watch();
    fd.signal();
    await sleep(5);
    fd.onEvent = 'x' as never;
    fd.signal();
    await sleep(5);
    expect(fd.drain()).toBe(0);
  });

  test('runs microtasks after each callback', async () => {
    const [first, second] = [keep(createEventFd()), keep(createEventFd())];
    const order: string[] = [];
    const log = (name: string) => () => {
      order.push(name);
      void Promise.resolve().then(() => order.push(`${name}, then`));
    };
    first.onEvent = log('first');
    second.onEvent = log('second');
    first.watch();
    second.watch();
    first.signal();
    second.signal();
    await vi.waitFor(() => expect(order).toHaveLength(4));
    expect(order).toEqual(['first', 'first, then', 'second', 'second, then']);
  });

  test('closed while it is watched gives no more events, and a new one under its number does', async () => {
    for (let i = 0; i < 100; i++) {
      const fd = createEventFd();
      fd.onEvent = () => expect.unreachable();
      fd.watch();
      fd.signal();
      fd.close();
      fd.close();
    }
    const fd = keep(createEventFd());
    const event = new Promise<number>((resolve) => (fd.onEvent = resolve));
    fd.watch();
    fd.signal();
    expect(await event).toBe(1);
  });

  test('that is dropped while it is watched is collected', async () => {
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    for (let i = 0; i < 50; i++) {
      const fd = createEventFd();
      fd.onEvent = () => expect.unreachable();
      fd.watch();
      registry.register(fd, undefined);
    }
    await vi.waitFor(
      () => {
        globalThis.gc?.();
        expect(collected).toBeGreaterThanOrEqual(49);
      },
      { timeout: 5000 },
    );
  });
});

describe('Timer', () => {
  test('fires once after its delay, not before', async () => {
    const timer = keep(createTimer());
    const events: number[] = [];
    timer.onEvent = (count) => events.push(count);
    timer.watch();
    const start = performance.now();
    timer.arm(20 * MS);
    await vi.waitFor(() => expect(events).toEqual([1]), { interval: 1 });
    expect(performance.now() - start).toBeGreaterThanOrEqual(20);
    await sleep(40);
    expect(events).toEqual([1]);
  });

  test('fires again and again with an interval, and tells what it missed', async () => {
    const timer = keep(createTimer());
    let fired = 0;
    timer.onEvent = (count) => (fired += count);
    timer.watch();
    const start = performance.now();
    timer.arm(5 * MS, 5 * MS);
    const until = start + 50;
    while (performance.now() < until);
    await vi.waitFor(() => expect(fired).toBeGreaterThanOrEqual(10));
    expect(fired).toBeLessThanOrEqual((performance.now() - start) / 5);
  });

  test('a delay of 0 disarms it, also its interval; arming again replaces what was', async () => {
    const timer = keep(createTimer());
    timer.onEvent = () => expect.unreachable();
    timer.watch();
    timer.arm(5 * MS, 1 * MS);
    timer.arm(0);
    await sleep(15);
    timer.arm(1 * MS);
    timer.arm(3600e9);
    await sleep(15);
    timer.arm(0, 1 * MS);
    await sleep(15);
    expect(timer.drain()).toBe(0);
  });

  test('takes nanoseconds', async () => {
    const timer = keep(createTimer());
    timer.arm(1);
    await sleep(1);
    expect(timer.drain()).toBe(1);
  });
});
