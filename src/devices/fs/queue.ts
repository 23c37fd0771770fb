import { RequestQueue } from '../request-queue.ts';

/** A queue during one activation. */
export class FsQueue extends RequestQueue {
  /** has more than the host takes at a time */
  waiting = false;
}
