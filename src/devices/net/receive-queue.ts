import { LONGEST_FRAME, RECEIVED, VNET_HEADER, type FramePort } from '../../kvm/frame-port.ts';
import type { GuestBuffers } from '../../kvm/guest-buffers.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import type { RateLimiter } from '../rate-limit.ts';
import { ServedQueue } from '../served-queue.ts';

/** Buffers that the port has to choose from, at least while the driver has so many. */
const POSTED = 256;
/** Calls in one turn of the event loop. */
const ROUNDS = 8;
/** What of one buffer is used at most. */
const LARGEST_BUFFER = LONGEST_FRAME + VNET_HEADER;

/**
 * A receive queue during one activation: buffers of the guest, which a port fills (VIRTIO 1.2, 5.1.6.3). While the
 * guest has none nothing is read, so whoever floods it waits, or loses frames, in the host's kernel.
 */
export class ReceiveQueue extends ServedQueue {
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

  /** Gives the guest what has come, and sees to it that somebody says when there is more. Returns whether it did. */
  serve(): boolean {
    const port = this.#port;
    const { rx } = port;
    const { virtqueue } = this;
    let worked = false;
    for (let round = 0; round < ROUNDS; round++) {
      if (!this.#limiter.admits()) {
        this.limited = true;
        port.listen(false);
        return worked;
      }
      this.#post();
      const before = port.receivedBytes;
      const frames = port.receivedFrames;
      const full = port.receive();
      for (let i = 0; i < full; i++) virtqueue.push(rx.cookie(i), rx.written(i));
      rx.shift(full);
      if (full > 0) {
        worked = true;
        this.#limiter.spendMany(port.receivedFrames - frames, port.receivedBytes - before);
        virtqueue.flush();
      }
      const { received } = port;
      if (received === RECEIVED.drained) {
        port.listen(true);
        return worked;
      }
      if (received === RECEIVED.starved && full === 0 && !this.listen()) {
        port.listen(false);
        return worked;
      }
    }
    this.again = true;
    return worked;
  }

  /** Shows the port the driver's buffers. */
  #post(): void {
    const { virtqueue } = this;
    const { rx } = this.#port;
    const buffers = this.#buffers;
    if (rx.count >= POSTED) return;
    this.mute();
    while (rx.count < POSTED) {
      const chain = virtqueue.pop();
      if (chain === undefined) return;
      const { addresses, lengths, count } = chain.writable;
      let room = LARGEST_BUFFER;
      for (let i = 0; i < count && room > 0; i++) {
        const length = Math.min(room, lengths[i]!);
        buffers.append(rx, addresses[i]!, length);
        room -= length;
      }
      // Without room it can hold no frame.
      if (room === LARGEST_BUFFER || !rx.end(chain.head)) {
        rx.abandon();
        virtqueue.push(chain.head, 0);
        virtqueue.flush();
      }
    }
  }
}
