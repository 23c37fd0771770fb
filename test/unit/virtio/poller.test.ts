import { describe, expect, test } from 'vitest';
import { Poller } from '../../../src/virtio/poller.ts';

const LIMIT = 32;

/** A poller on a clock of its own, in microseconds, whose event loop turns once in `step` of them. */
class Loop {
  now = 0;
  looks = 0;
  rests = 0;
  /** moments at which there is work */
  work: number[] = [];
  /** whether that work goes on in the host */
  pending = false;
  readonly poller: Poller;
  #due: (() => void)[] = [];
  readonly #step: number;

  constructor(limit = LIMIT, { step = 1, whilePending = false } = {}) {
    this.#step = step;
    this.poller = new Poller(
      {
        poll: () => {
          this.looks++;
          const at = this.work.findIndex((moment) => moment <= this.now);
          if (at < 0) return false;
          this.work.splice(at, 1);
          this.poller.worked(this.pending);
          return true;
        },
        rest: () => this.rests++,
      },
      {
        limit,
        whilePending,
        clock: () => this.now / 1000,
        defer: (callback) => this.#due.push(callback),
      },
    );
  }

  get turning(): boolean {
    return this.#due.length > 0;
  }

  /** Lets time pass, with the event loop turning where it is asked to. */
  pass(microseconds: number): void {
    for (let left = microseconds; left > 0; left -= this.#step) {
      this.now += this.#step;
      for (const callback of this.#due.splice(0)) callback();
    }
  }

  /** The guest notifies, and what it wants is done at once. */
  notified(): boolean {
    this.poller.woken();
    return this.poller.worked(false);
  }

  /** Polls for `window` microseconds from now on. */
  tuned(window: number): this {
    this.notified();
    while (this.poller.window < window) {
      this.pass(LIMIT + 10);
      this.notified();
    }
    return this;
  }
}

describe('a poller', () => {
  test('does not poll after work that came out of the blue', () => {
    const loop = new Loop();
    expect(loop.notified()).toBe(false);
    loop.pass(1000);
    expect(loop.notified()).toBe(false);
    expect(loop.turning).toBe(false);
  });

  test('polls once notifications follow work quickly, longer and longer up to its limit', () => {
    const loop = new Loop();
    loop.notified();
    const windows = Array.from({ length: 3 }, () => {
      // later than the limit: what was polled for comes before its notification
      loop.pass(100);
      expect(loop.notified()).toBe(true);
      return loop.poller.window;
    });
    expect(windows).toEqual([8, 16, 32]);
  });

  test('takes work that comes while it polls, and polls on from there', () => {
    const loop = new Loop().tuned(8);
    loop.work = [loop.now + 3, loop.now + 9, loop.now + 15];
    loop.pass(20);
    expect(loop.work).toEqual([]);
    expect(loop.rests).toBe(0);
    loop.pass(10);
    expect(loop.rests).toBe(1);
    expect(loop.turning).toBe(false);
  });

  test('rests once after the last work, and then looks no more', () => {
    const loop = new Loop().tuned(8);
    loop.pass(100);
    expect(loop.rests).toBe(1);
    const { looks } = loop;
    expect(looks).toBeGreaterThan(0);
    loop.pass(1000);
    expect(loop.looks).toBe(looks);
  });

  test('gives up at once where work stays away for long', () => {
    const loop = new Loop().tuned(32);
    loop.pass(500);
    expect(loop.notified()).toBe(false);
    expect(loop.poller.window).toBe(0);
  });

  test('does without for a while where its longest window has caught nothing four times', () => {
    const loop = new Loop().tuned(32);
    const polled = Array.from({ length: 40 }, () => {
      loop.pass(100);
      return loop.notified();
    });
    expect(polled).toEqual([
      ...Array<boolean>(3).fill(true),
      ...Array<boolean>(33).fill(false),
      true,
      true,
      true,
      true,
    ]);
  });

  test('forgets what it has missed once it catches something', () => {
    const loop = new Loop().tuned(32);
    for (let i = 0; i < 20; i++) {
      loop.work = [loop.now + 20];
      loop.pass(100);
      expect(loop.notified()).toBe(true);
    }
  });

  test('does without for a while where others need the CPU', () => {
    const loop = new Loop(LIMIT, { step: 2000 }).tuned(0);
    loop.now += 10;
    expect(loop.notified()).toBe(true);
    loop.pass(2000);
    expect(loop.rests).toBe(1);
    loop.now += 10;
    expect(loop.notified()).toBe(false);
  });

  test('leaves the CPU to the host while that works, and polls again after it', () => {
    const loop = new Loop().tuned(8);
    expect(loop.poller.worked(true)).toBe(false);
    loop.pass(1);
    expect(loop.rests).toBe(1);
    expect(loop.turning).toBe(false);
    expect(loop.poller.worked(false)).toBe(true);
  });

  test('rests where what it has caught is for the host', () => {
    const loop = new Loop().tuned(8);
    loop.pending = true;
    loop.work = [loop.now + 2];
    loop.pass(3);
    expect(loop.work).toEqual([]);
    expect([loop.rests, loop.turning]).toEqual([1, false]);
  });

  test('with CPUs to spare polls while the host works too', () => {
    const loop = new Loop(LIMIT, { whilePending: true }).tuned(8);
    expect(loop.poller.worked(true)).toBe(true);
  });

  test('lets the event loop turn within a few looks, however slow that turns', () => {
    const loop = new Loop(LIMIT, { step: 10 }).tuned(32);
    loop.looks = loop.rests = 0;
    loop.pass(100);
    expect(loop.looks).toBeLessThanOrEqual(5 * 8);
    expect(loop.rests).toBe(1);
  });

  test('that is stopped neither looks nor rests', () => {
    const loop = new Loop().tuned(8);
    const { looks, rests } = loop;
    loop.poller.stop();
    loop.pass(100);
    expect([loop.looks, loop.rests]).toEqual([looks, rests]);
  });

  test('with a limit of 0 never polls', () => {
    const loop = new Loop(0);
    for (let i = 0; i < 10; i++) expect(loop.notified()).toBe(false);
    expect(loop.turning).toBe(false);
  });

  test('lets the event loop have its turns while there is work without end', async () => {
    let last = false;
    const poller: Poller = new Poller(
      {
        poll: () => {
          poller.worked(false);
          return !last;
        },
        rest: () => undefined,
      },
      { limit: 1000 },
    );
    poller.worked(false);
    poller.woken();
    expect(poller.worked(false)).toBe(true);
    const start = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 5));
    last = true;
    poller.stop();
    expect(performance.now() - start).toBeLessThan(1000);
  });
});
