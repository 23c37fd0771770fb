import type { Virtqueue } from '../virtio/queue.ts';

/** A request queue of a device during one activation. */
export class RequestQueue {
  readonly index: number;
  readonly virtqueue: Virtqueue;
  /** has used entries that are not published */
  dirty = false;
  /** is to be served again in the next turn of the event loop */
  again = false;
  #muted = false;

  constructor(virtqueue: Virtqueue) {
    this.index = virtqueue.index;
    this.virtqueue = virtqueue;
  }

  /** Asks the driver for no notifications while the queue is looked at anyway. */
  mute(): void {
    if (this.#muted) return;
    this.#muted = true;
    this.virtqueue.disableNotifications();
  }

  /** Asks for notifications again; true where a request has come in the meantime. */
  listen(): boolean {
    this.#muted = false;
    return this.virtqueue.enableNotifications();
  }

  flush(): void {
    if (!this.dirty) return;
    this.dirty = false;
    this.virtqueue.flush();
  }
}
