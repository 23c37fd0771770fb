import { LONGEST_FRAME, VNET_HEADER, type FramePort } from '../../kvm/frame-port.ts';
import type { GuestBuffers } from '../../kvm/guest-buffers.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import type { RateLimiter } from '../rate-limit.ts';
import { ServedQueue } from '../served-queue.ts';

/** Frames that go out with one native call; the guest gets their buffers back after it. */
const BATCH = 256;

/** A transmit queue during one activation: frames of the guest, on their way to a port (VIRTIO 1.2, 5.1.6.2). */
export class TransmitQueue extends ServedQueue {
  /** waits for the limits on throughput */
  limited = false;
  readonly #port: FramePort;
  readonly #buffers: GuestBuffers;
  readonly #limiter: RateLimiter;

  constructor(virtqueue: Virtqueue, port: FramePort, buffers: GuestBuffers, limiter: RateLimiter) {
    super(virtqueue);
    this.#port = port;
    this.#buffers = buffers;
    this.#limiter = limiter;
  }

  /** Whether the host takes no more for now: it says when. */
  get isBlocked(): boolean {
    return this.#port.tx.count > 0;
  }

  /**
   * Sends what there is, up to two rings full, as far as the host takes it.
   * @param link where there is none, frames are dropped
   * @returns whether there was something
   */
  serve(link: boolean): boolean {
    this.mute();
    if (this.isBlocked) {
      const done = this.#send(link);
      this.virtqueue.flush();
      if (!done) return false;
    }
    let worked = false;
    for (let left = 2 * this.virtqueue.size; ;) {
      const taken = this.#take(Math.min(BATCH, left));
      if (taken === 0) break;
      worked = true;
      left -= taken;
      if (!this.#send(link)) break;
      if (left <= 0) {
        // A driver that is as quick as we are must not hold the event loop.
        this.again = true;
        break;
      }
      if (this.limited) break;
    }
    if (worked) this.virtqueue.flush();
    return worked;
  }

  /** Takes up to `limit` frames from the driver; returns how many. Those that are none it gives back at once. */
  #take(limit: number): number {
    const { virtqueue } = this;
    const { tx } = this.#port;
    const buffers = this.#buffers;
    for (let taken = 0; taken < limit; taken++) {
      if (tx.isFull) return taken;
      if (!this.#limiter.admits()) {
        this.limited = true;
        return taken;
      }
      const chain = virtqueue.pop();
      if (chain === undefined) return taken;
      const { readable } = chain;
      const { addresses, lengths, count, byteLength } = readable;
      this.#limiter.spend(Math.max(0, byteLength - VNET_HEADER));
      if (byteLength <= VNET_HEADER + LONGEST_FRAME) {
        for (let i = 0; i < count; i++) buffers.append(tx, addresses[i]!, lengths[i]!);
      }
      // A frame of no bytes the port refuses, and counts, as it does others that are none.
      if (!tx.end(chain.head)) virtqueue.push(chain.head, 0);
    }
    return limit;
  }

  /** Sends what was taken; returns whether all of it is over. */
  #send(link: boolean): boolean {
    const { virtqueue } = this;
    const port = this.#port;
    const { tx } = port;
    const done = link ? port.send() : tx.count;
    for (let i = 0; i < done; i++) virtqueue.push(tx.cookie(i), 0);
    tx.shift(done);
    return tx.count === 0;
  }
}
