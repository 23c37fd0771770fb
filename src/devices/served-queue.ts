import type { Virtqueue } from '../virtio/queue.ts';

/** A queue of a device during one activation, which wants no notifications while it is looked at anyway. */
export class ServedQueue {
  readonly virtqueue: Virtqueue;
  /** is to be served again in the next turn of the event loop */
  again = false;
  #muted = false;

  constructor(virtqueue: Virtqueue) {
    this.virtqueue = virtqueue;
  }

  /** Asks the driver for no notifications. */
  mute(): void {
    if (this.#muted) return;
    this.#muted = true;
    this.virtqueue.disableNotifications();
  }

  /** Asks for notifications again; true where a buffer has come in the meantime. */
  listen(): boolean {
    this.#muted = false;
    return this.virtqueue.enableNotifications();
  }
}
