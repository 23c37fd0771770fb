import type { GuestMemory } from '../kvm/guest-memory.ts';
import { Segments, type Lifetime } from './segments.ts';

/**
 * One request: the buffers of a descriptor chain, all checked. It belongs to the device from `pop()` to `push()`;
 * after that the queue uses the object for the next request with the same head.
 */
export class Chain {
  /** index of the first descriptor, the request's name in the queue: no other request in flight has it */
  readonly head: number;
  /** what the driver has filled for the device */
  readonly readable: Segments;
  /** what the device may fill */
  readonly writable: Segments;
  /** between `pop()` and `push()` */
  inFlight = false;

  constructor(memory: GuestMemory, lifetime: Lifetime, head: number) {
    this.head = head;
    this.readable = new Segments(memory, lifetime, false);
    this.writable = new Segments(memory, lifetime, true);
  }

  /** in bytes, at most 2^32 with {@link writableLength} */
  get readableLength(): number {
    return this.readable.byteLength;
  }

  get writableLength(): number {
    return this.writable.byteLength;
  }
}

/** What is wrong with a chain that a device is not given. */
export type ChainFault =
  | 'next-out-of-range'
  | 'too-long'
  | 'outside-ram'
  | 'zero-length'
  | 'readable-after-writable'
  | 'indirect-not-negotiated'
  | 'indirect-with-next'
  | 'nested-indirect'
  | 'indirect-length'
  | 'indirect-outside-ram'
  | 'over-4-gib';
