/** Limits of a device's throughput, by token buckets: a rate over time, and what may pass at once. */

export type RateLimit = {
  /** per second, above 0 */
  readonly rate: number;
  /**
   * What may pass at once after a pause; default a tenth of a second's worth. Less than 5 milliseconds' worth is
   * taken for that: timers wake no faster.
   */
  readonly burst?: number;
};

export type RateLimits = {
  readonly bytes?: RateLimit | undefined;
  readonly operations?: RateLimit | undefined;
};

/** Milliseconds from any fixed moment on, never backwards. */
export type Clock = () => number;

const DEFAULT_BURST_SECONDS = 0.1;
const LEAST_BURST_SECONDS = 0.005;

/** What setTimeout takes; more is taken for 1. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * A bucket that fills at a rate. It is open while there is a token in it, and a request of any size passes then; the
 * debt of a large one holds up those after it.
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #capacity: number;
  #tokens: number;
  #since: number;

  /** @throws RangeError for a rate or burst that is none */
  constructor({ rate, burst = rate * DEFAULT_BURST_SECONDS }: RateLimit, now: number) {
    if (!(rate > 0 && Number.isFinite(rate))) throw new RangeError(`${rate} is no rate`);
    if (!(burst >= 0 && Number.isFinite(burst))) throw new RangeError(`${burst} is no burst`);
    this.#perMs = rate / 1000;
    this.#capacity = Math.max(burst, rate * LEAST_BURST_SECONDS, 1);
    this.#tokens = this.#capacity;
    this.#since = now;
  }

  take(count: number): void {
    this.#tokens -= count;
  }

  /** Milliseconds until the bucket is open again; 0 where it is. */
  wait(now: number): number {
    this.#tokens = Math.min(this.#capacity, this.#tokens + Math.max(0, now - this.#since) * this.#perMs);
    this.#since = now;
    return this.#tokens >= 1 ? 0 : (1 - this.#tokens) / this.#perMs;
  }
}

/** The limits of one device, with one timer for all of them. */
export class RateLimiter {
  readonly #bytes: TokenBucket | undefined;
  readonly #operations: TokenBucket | undefined;
  readonly #ready: () => void;
  readonly #clock: Clock;
  #timer: NodeJS.Timeout | undefined;

  /** @param ready is called once requests may pass again, after {@link admits} has refused one */
  constructor(limits: RateLimits, ready: () => void, clock: Clock = () => performance.now()) {
    const now = clock();
    this.#bytes = limits.bytes && new TokenBucket(limits.bytes, now);
    this.#operations = limits.operations && new TokenBucket(limits.operations, now);
    this.#ready = ready;
    this.#clock = clock;
  }

  /** Whether another request may pass now. */
  admits(): boolean {
    if (this.#bytes === undefined && this.#operations === undefined) return true;
    const now = this.#clock();
    const wait = Math.max(this.#bytes?.wait(now) ?? 0, this.#operations?.wait(now) ?? 0);
    if (wait === 0) return true;
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        this.#ready();
      },
      Math.min(Math.ceil(wait), LONGEST_TIMER_MS),
    );
    return false;
  }

  /** A request has passed. */
  spend(bytes: number): void {
    this.spendMany(1, bytes);
  }

  spendMany(operations: number, bytes: number): void {
    this.#bytes?.take(bytes);
    this.#operations?.take(operations);
  }

  /** Forgets that something waits; `ready` is not called until the next refusal. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
