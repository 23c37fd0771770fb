import { describe, expect, test } from 'vitest';
import { Poller } from '../../../src/virtio/poller.ts';

/** A poller on a clock of its own, in microseconds, whose event loop turns once in `step` of them. */
class Loop {
  now = 0;
  polls = 0;
  rests = 0;
  /** moments at which there is work */
  work: number[] = [];
  readonly poller: Poller;
  #due: (() => void)[] = [];
  readonly #step: number;

  constructor(limit: number, step = 1) {
    this.#step = step;
    this.poller = new Poller(
      {
        poll: () => {
          this.polls++;
          const at = this.work.findIndex((moment) => moment <= this.now);
          if (at < 0) return false;
          this.work.splice(at, 1);
          this.poller.worked();
          return true;
        },
        rest: () => this.rests++,
      },
      { limit, clock: () => this.now / 1000, defer: (callback) => this.#due.push(callback) },
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

  /** Work comes as a notification. */
  notified(): boolean {
    return this.poller.worked();
  }
}

describe('a poller', () => {
  test('does not poll after work that came out of the blue', () => {
    const loop = new Loop(32);
    expect(loop.notified()).toBe(false);
    loop.pass(1000);
    expect(loop.notified()).toBe(false);
    expect(loop.turning).toBe(false);
  });

  test('polls once work follows work quickly, longer and longer up to its limit', () => {
    const loop = new Loop(32);
    loop.notified();
    const windows = Array.from({ length: 6 }, () => {
      loop.pass(20);
      loop.notified();
      return loop.poller.window;
    });
    expect(windows).toEqual([4, 8, 16, 32, 32, 32]);
  });

  test('does not poll longer where that catches no more', () => {
    const loop = new Loop(32);
    loop.notified();
    for (let i = 0; i < 10; i++) {
      loop.pass(3);
      loop.notified();
    }
    expect(loop.poller.window).toBe(4);
  });

  test('takes work that comes while it polls, and polls on from there', () => {
    const loop = new Loop(32);
    loop.notified();
    loop.pass(2);
    expect(loop.notified()).toBe(true);
    loop.work = [loop.now + 3, loop.now + 6, loop.now + 9];
    loop.pass(10);
    expect(loop.work).toEqual([]);
    expect(loop.rests).toBe(0);
    loop.pass(10);
    expect(loop.rests).toBe(1);
    expect(loop.turning).toBe(false);
  });

  test('rests once after the last work, and then looks no more', () => {
    const loop = new Loop(32);
    loop.notified();
    loop.pass(1);
    loop.notified();
    loop.pass(100);
    expect(loop.rests).toBe(1);
    const { polls } = loop;
    expect(polls).toBeLessThanOrEqual(6);
    loop.pass(1000);
    expect(loop.polls).toBe(polls);
  });

  test('gives up at once where work stays away for longer than its limit', () => {
    const loop = new Loop(32);
    loop.notified();
    for (let i = 0; i < 5; i++) {
      loop.pass(20);
      loop.notified();
    }
    loop.pass(500);
    expect(loop.notified()).toBe(false);
    expect(loop.poller.window).toBe(0);
  });

  test('looks once in a turn of the event loop, however slow that turns', () => {
    const loop = new Loop(32, 10);
    loop.notified();
    for (let i = 0; i < 4; i++) {
      loop.pass(20);
      loop.notified();
    }
    loop.polls = loop.rests = 0;
    loop.pass(100);
    expect(loop.polls).toBeLessThanOrEqual(5);
    expect(loop.rests).toBe(1);
  });

  test('that is stopped neither looks nor rests', () => {
    const loop = new Loop(32);
    loop.notified();
    loop.pass(1);
    loop.notified();
    loop.poller.stop();
    loop.pass(100);
    expect([loop.polls, loop.rests]).toEqual([0, 0]);
  });

  test('with a limit of 0 never polls', () => {
    const loop = new Loop(0);
    for (let i = 0; i < 10; i++) expect(loop.notified()).toBe(false);
    expect(loop.turning).toBe(false);
  });

  test('lets the event loop have its turns while it polls', async () => {
    let last = false;
    const poller: Poller = new Poller(
      {
        poll: () => {
          // work without end
          poller.worked();
          return !last;
        },
        rest: () => undefined,
      },
      { limit: 1000 },
    );
    poller.worked();
    poller.worked();
    const start = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 5));
    last = true;
    poller.stop();
    expect(performance.now() - start).toBeLessThan(1000);
  });
});
