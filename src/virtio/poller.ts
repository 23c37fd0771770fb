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
  /** also while the host works on something: only with CPUs to spare for it. Default: with four CPUs */
  readonly whilePending?: boolean;
  /** milliseconds; default `performance.now` */
  readonly clock?: () => number;
  /** calls back in the next turn of the event loop; default `setImmediate` */
  readonly defer?: (callback: () => void) => void;
};

const CPUS = availableParallelism();
/** With one CPU what is waited for cannot happen while we look for it. */
const DEFAULT_LIMIT = CPUS > 1 ? 32 : 0;
/** A vCPU has one, we have one, the kernel's workers need one. */
const DEFAULT_WHILE_PENDING = CPUS >= 4;
const FIRST_MS = 0.008;
/** A turn of the event loop costs as much as several looks at memory. */
const LOOKS = 8;
/** A notification within so many limits of the last work may have been written down within one. */
const SOON = 8;
/** Polled in vain for the limit so many times, we do without for so many notifications. */
const PATIENCE = 4;
const PAUSE = 32;
/** Turns that are so far apart tell that others need the CPU. */
const STALL_MS = 1;

/**
 * Decides how long one device polls. The guest's notification comes much later than what it tells of: it is an exit
 * of a vCPU, and then the event loop wakes up. So after any notification that follows work quickly polling is tried,
 * and longer where that was too short, up to the limit; where it is in vain all the same, and where the host has
 * other things to do, not for a while.
 */
export class Poller {
  readonly #polled: Polled;
  readonly #limitMs: number;
  readonly #whilePending: boolean;
  readonly #clock: () => number;
  readonly #defer: (callback: () => void) => void;
  readonly #turn = (): void => this.#look();
  #windowMs = 0;
  /** windows of full length that caught nothing, since the last that did */
  #misses = 0;
  /** notifications that are still to pass without an attempt */
  #pause = 0;
  #lastWork = -Infinity;
  #lastLook = -Infinity;
  #active = false;
  /** the next turn ends it: what there is to wait for tells of itself */
  #ending = false;
  #scheduled = false;

  constructor(polled: Polled, options: PollerOptions = {}) {
    this.#polled = polled;
    this.#limitMs = (options.limit ?? DEFAULT_LIMIT) / 1000;
    this.#whilePending = options.whilePending ?? DEFAULT_WHILE_PENDING;
    this.#clock = options.clock ?? (() => performance.now());
    this.#defer = options.defer ?? ((callback) => void setImmediate(callback));
  }

  /** how long polling lasts at present, in microseconds */
  get window(): number {
    return this.#windowMs * 1000;
  }

  get #stopped(): boolean {
    return !this.#active;
  }

  /** The guest has notified, for nobody looked. Comes before what {@link worked} says of it. */
  woken(): void {
    if (this.#limitMs === 0) return;
    if (this.#pause > 0) {
      this.#pause--;
      return;
    }
    if (this.#clock() - this.#lastWork > SOON * this.#limitMs) {
      this.#windowMs = 0;
      this.#misses = 0;
    } else if (this.#windowMs < this.#limitMs) {
      this.#windowMs = Math.min(this.#limitMs, Math.max(FIRST_MS, 2 * this.#windowMs));
    } else if (++this.#misses === PATIENCE) {
      this.#giveUp();
    }
  }

  /**
   * There was work just now. Returns true where the device is polled from here on and need not be notified: `rest()`
   * follows, unless {@link stop} comes first. Where false, the guest has to notify.
   * @param pending whether the host works on something, whose end it tells
   */
  worked(pending: boolean): boolean {
    if (this.#limitMs === 0) return false;
    this.#lastWork = this.#lastLook = this.#clock();
    this.#ending = this.#windowMs === 0 || (pending && !this.#whilePending);
    if (this.#ending) return false;
    this.#active = true;
    this.#schedule();
    return true;
  }

  /** Ends polling without `rest()`. */
  stop(): void {
    this.#active = false;
    this.#windowMs = 0;
    this.#misses = 0;
  }

  #giveUp(): void {
    this.#windowMs = 0;
    this.#misses = 0;
    this.#pause = PAUSE;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#defer(this.#turn);
  }

  #look(): void {
    this.#scheduled = false;
    if (!this.#active) return;
    const found = !this.#ending && this.#poll();
    if (this.#stopped) return;
    if (!this.#ending && (found || this.#clock() - this.#lastWork < this.#windowMs)) {
      this.#schedule();
      return;
    }
    this.#active = false;
    this.#polled.rest();
  }

  #poll(): boolean {
    const now = this.#clock();
    if (now - this.#lastLook > STALL_MS) this.#giveUp();
    this.#lastLook = now;
    for (let i = 0; i < LOOKS; i++) {
      // Work tells worked() itself, on its way.
      if (!this.#polled.poll()) continue;
      this.#misses = 0;
      return true;
    }
    return false;
  }
}
