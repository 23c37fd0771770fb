import { randomFillSync } from 'node:crypto';
import { noConfig } from '../../virtio/device-config.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features } from '../../virtio/features.ts';
import type { Segments } from '../../virtio/segments.ts';
import { RateLimiter, type Clock, type RateLimit } from '../rate-limit.ts';
import { checkEntropyState } from './state.ts';

/** What one request gets at most: a device may give less than there is room for (VIRTIO 1.2, 5.4.6.2). */
const REQUEST_LIMIT = 64 * 1024;
/** What the event loop is held for at once, a millisecond or so. */
const TURN_LIMIT = 512 * 1024;
/** What a request costs of that beside its bytes. */
const REQUEST_COST = 256;

export type EntropyOptions = {
  readonly name: string;
  /** bytes per second that the guest may draw; default no limit */
  readonly rate?: RateLimit;
  readonly clock?: Clock;
};

/** The entropy device (VIRTIO 1.2, 5.4): fills buffers from the host's cryptographic generator. */
export class EntropyDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = 4;
  readonly features = new Features(0, 0);
  readonly queueSizes = [64];
  readonly config = noConfig();
  /** bytes given so far */
  given = 0;
  readonly #limiter: RateLimiter;
  #activation: Activation | undefined;
  #paused = false;
  #next: NodeJS.Immediate | undefined;

  /** @throws RangeError for a rate that is none */
  constructor({ name, rate, clock }: EntropyOptions) {
    this.name = name;
    this.#limiter = new RateLimiter({ bytes: rate }, () => this.#goOn(), clock);
  }

  activate(activation: Activation): void {
    this.#activation = activation;
  }

  notified(): void {
    this.#serve();
  }

  reset(): undefined {
    this.#stop();
    this.#activation = undefined;
  }

  pause(): Promise<void> {
    this.#paused = true;
    this.#stop();
    return Promise.resolve();
  }

  resume(): void {
    this.#paused = false;
  }

  save(): unknown {
    return {};
  }

  restore(data: unknown): void {
    checkEntropyState(this.name, data);
  }

  #stop(): void {
    this.#limiter.stop();
    clearImmediate(this.#next);
    this.#next = undefined;
  }

  /** Fills what there is to fill, up to the limits; goes on in the next turn of the event loop, or in due time. */
  #serve(): void {
    const queue = this.#activation?.queues[0];
    if (queue === undefined || this.#paused) return;
    let left = TURN_LIMIT;
    queue.disableNotifications();
    while (left > 0) {
      if (!this.#limiter.admits()) {
        queue.flush();
        return;
      }
      const chain = queue.pop();
      left -= REQUEST_COST;
      if (chain === undefined) {
        queue.flush();
        if (!queue.enableNotifications()) return;
        continue;
      }
      const count = fillRandom(chain.writable);
      queue.push(chain.head, count);
      this.#limiter.spend(count);
      this.given += count;
      left -= count;
    }
    queue.flush();
    this.#next ??= setImmediate(() => {
      this.#next = undefined;
      this.#goOn();
    });
  }

  /** Out of the event loop, where nobody catches. */
  #goOn(): void {
    try {
      this.#serve();
    } catch (error) {
      this.#activation?.needsReset(String(error));
    }
  }
}

/** Fills the guest's own pages; returns how many bytes. */
function fillRandom(target: Segments): number {
  let left = Math.min(target.byteLength, REQUEST_LIMIT);
  const count = left;
  for (const view of target.views()) {
    if (left === 0) break;
    left -= randomFillSync(view.subarray(0, left)).length;
  }
  return count;
}
