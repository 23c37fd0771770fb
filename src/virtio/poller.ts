/**
 * Polling before sleep. To be woken costs a device more than most of what it is woken for: the guest's notification
 * is an exit, and the event loop that sleeps has to be scheduled again. So after some work a device looks for more
 * for a moment. It does so once a turn of the event loop, which does not sleep meanwhile and serves everything else
 * as it comes.
 */
import { availableParallelism } from 'node:os';

/** What is polled. */
export type Polled = {
  /** Looks for work and does it; returns whether there was some. */
  poll(): boolean;
  /** The moment is over: whoever brings work has to notify from now on. */
  rest(): void;
};

export type PollerOptions = {
  /** longest time to poll after the last work, in microseconds; 0 for never. Default 32 where there are two CPUs */
  readonly limit?: number;
  /** milliseconds; default `performance.now` */
  readonly clock?: () => number;
  /** calls back in the next turn of the event loop; default `setImmediate` */
  readonly defer?: (callback: () => void) => void;
};

/** With one CPU what is waited for cannot happen while we look for it. */
const DEFAULT_LIMIT = availableParallelism() > 1 ? 32 : 0;
const FIRST_MS = 0.004;

/**
 * Decides how long one device polls, from how long it had to wait for work lately: twice as long where a little more
 * would have caught it, not at all where nothing came for longer than the limit.
 */
export class Poller {
  readonly #polled: Polled;
  readonly #limitMs: number;
  readonly #clock: () => number;
  readonly #defer: (callback: () => void) => void;
  readonly #turn = (): void => this.#look();
  #windowMs = 0;
  #lastWork = -Infinity;
  #active = false;
  #scheduled = false;

  constructor(polled: Polled, options: PollerOptions = {}) {
    this.#polled = polled;
    this.#limitMs = (options.limit ?? DEFAULT_LIMIT) / 1000;
    this.#clock = options.clock ?? (() => performance.now());
    this.#defer = options.defer ?? ((callback) => void setImmediate(callback));
  }

  /** how long polling lasts at present, in microseconds */
  get window(): number {
    return this.#windowMs * 1000;
  }

  /**
   * There was work just now. Returns true where the device is polled from here on and need not be notified: `rest()`
   * follows, unless {@link stop} comes first. Where false, nothing follows.
   */
  worked(): boolean {
    if (this.#limitMs === 0) return false;
    const now = this.#clock();
    const waited = now - this.#lastWork;
    this.#lastWork = now;
    if (waited > this.#limitMs) this.#windowMs = 0;
    if (waited > this.#windowMs && waited <= this.#limitMs) {
      this.#windowMs = Math.min(this.#limitMs, Math.max(FIRST_MS, 2 * this.#windowMs));
    }
    if (this.#windowMs === 0) return this.#active;
    this.#active = true;
    this.#schedule();
    return true;
  }

  /** Ends polling without `rest()`. */
  stop(): void {
    this.#active = false;
    this.#windowMs = 0;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#defer(this.#turn);
  }

  #look(): void {
    this.#scheduled = false;
    if (!this.#active) return;
    // Work tells worked() itself, on its way.
    if (this.#polled.poll() || this.#clock() - this.#lastWork < this.#windowMs) {
      this.#schedule();
      return;
    }
    this.#active = false;
    this.#polled.rest();
  }
}
