import { join64 } from '../kvm/guest-memory.ts';
import type { QueueLayout } from './queue-layout.ts';

export type QueueAddress = 'descriptors' | 'driver' | 'device';

/** A 64-bit register in halves. */
type Halves = [low: number, high: number];

/** A queue as the driver sets it up. */
export type QueueSetup = {
  readonly sizeLimit: number;
  size: number;
  ready: boolean;
  /** the driver enabled it as it was not sound */
  refused: boolean;
  descriptors: Halves;
  driver: Halves;
  device: Halves;
};

export const freshQueue = (sizeLimit: number): QueueSetup => ({
  sizeLimit,
  size: sizeLimit,
  ready: false,
  refused: false,
  descriptors: [0, 0],
  driver: [0, 0],
  device: [0, 0],
});

export const layoutOf = (queue: Pick<QueueSetup, 'size' | QueueAddress>): QueueLayout => ({
  size: queue.size,
  descriptors: join64(...queue.descriptors),
  driver: join64(...queue.driver),
  device: join64(...queue.device),
});
