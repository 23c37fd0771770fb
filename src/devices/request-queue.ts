import type { Virtqueue } from '../virtio/queue.ts';
import { ServedQueue } from './served-queue.ts';

/** A request queue of a device during one activation. */
export class RequestQueue extends ServedQueue {
  readonly index: number;
  /** has used entries that are not published */
  dirty = false;

  constructor(virtqueue: Virtqueue) {
    super(virtqueue);
    this.index = virtqueue.index;
  }

  flush(): void {
    if (!this.dirty) return;
    this.dirty = false;
    this.virtqueue.flush();
  }
}
