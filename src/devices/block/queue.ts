import { RequestQueue } from '../request-queue.ts';

/** A request queue during one activation. */
export class BlockQueue extends RequestQueue {
  /** waits for the limits on throughput */
  limited = false;
}
