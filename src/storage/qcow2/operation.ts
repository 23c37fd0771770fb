import { IoVector } from '../../kvm/io-vector.ts';
import type { DiskOperation, DiskRequest } from '../disk.ts';
import type { IoSink } from './file-io.ts';
import type { Waiter } from './task.ts';

/** Who carries an operation on: reads, or writes. */
export type OperationHandler = {
  /** Does as much as needs no waiting for metadata. */
  advance(operation: Operation): void;
  /** I/O of the slot ended. */
  ioDone(operation: Operation, slot: number, result: number): void;
};

/** A request under way, of the guest or of our own. Split into parts as the mapping has it; used again. */
export class Operation implements IoSink, Waiter {
  handler: OperationHandler | undefined;
  kind: DiskOperation = 0;
  /** the guest's; undefined for our own */
  request: DiskRequest | undefined;
  vector: IoVector;
  /** of our own ones */
  readonly ownVector = new IoVector();
  offset = 0;
  /** what lies before this place has been begun */
  at = 0;
  end = 0;
  /** the first error of any part */
  errno = 0;
  /** parts that have not ended; one of them is the work of splitting it up */
  #pending = 0;
  readonly #finished: (operation: Operation) => void;

  constructor(finished: (operation: Operation) => void) {
    this.#finished = finished;
    this.vector = this.ownVector;
  }

  begin(handler: OperationHandler | undefined, offset: number, length: number): void {
    this.handler = handler;
    this.offset = offset;
    this.at = offset;
    this.end = offset + length;
    this.errno = 0;
    this.#pending = 1;
  }

  /** One more part is under way. */
  partBegun(): void {
    this.#pending++;
  }

  partDone(errno: number): void {
    this.errno ||= errno;
    if (--this.#pending === 0) this.#finished(this);
  }

  ioDone(slot: number, result: number): void {
    this.handler!.ioDone(this, slot, result);
  }

  /** The page that it waited for is there, or there is an errno instead. */
  resume(errno: number): void {
    if (errno === 0) this.handler!.advance(this);
    else this.partDone(errno);
  }
}
