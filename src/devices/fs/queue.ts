import type { Virtqueue } from '../../virtio/queue.ts';

/** A queue during one activation. */
export class FsQueue {
  readonly index: number;
  readonly virtqueue: Virtqueue;
  /** has used entries that are not published */
  dirty = false;
  /** is to be served again in the next turn of the event loop */
  again = false;
  /** has more than the host takes at a time */
  waiting = false;
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
