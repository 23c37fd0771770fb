import type { GuestMemory } from '../kvm/guest-memory.ts';
import type { ConfigRegisters } from './device-config.ts';
import type { Features } from './features.ts';
import type { Virtqueue } from './queue.ts';

/** What a device works with from DRIVER_OK until its next reset. */
export type Activation = {
  readonly memory: GuestMemory;
  /** negotiated, those of the transport among them */
  readonly features: Features;
  /** by queue index; undefined where the driver has not set the queue up */
  readonly queues: readonly (Virtqueue | undefined)[];
  /** aborted when this activation ends: by a reset, a failure or the end of the machine */
  readonly signal: AbortSignal;
  /**
   * The device cannot go on: sets DEVICE_NEEDS_RESET, tells the driver, and ends the queues.
   * @param reason for the log, in a few words
   */
  needsReset(reason: string): void;
};

/**
 * A virtio device, whatever transport it is behind. All methods are called on the event loop. An exception out of
 * one of them is taken for a failure of the device: the driver sees DEVICE_NEEDS_RESET.
 */
export type VirtioDevice = {
  /** names it in messages and counters, e.g. `block0` */
  readonly name: string;
  /** VIRTIO 1.2, 5 "Device Types" */
  readonly deviceId: number;
  /** class code on PCI, 24 bits; default 0x00ff00, unclassified */
  readonly pciClass?: number;
  /**
   * Feature bits of this kind of device (0 to 23, 50 to 63) that it offers. VERSION_1, INDIRECT_DESC and EVENT_IDX
   * are the transport's; a device that completes requests in their order may offer IN_ORDER.
   */
  readonly features: Features;
  /** largest size of each queue, powers of two up to 1024 */
  readonly queueSizes: readonly number[];
  readonly config: ConfigRegisters;
  /**
   * Whether this choice of offered features makes sense together; default true. Where false, FEATURES_OK does not
   * stick (VIRTIO 1.2, 2.2.2).
   */
  accepts?(features: Features): boolean;
  /** The driver is ready. Every queue that is there is notified once, soon after. */
  activate(activation: Activation): void;
  /** The driver has something in this queue, or there may be something. Never called before `activate`. */
  notified(queueIndex: number): void;
  /**
   * Ends the activation: the queues take and give nothing any more already. Resolves, or returns undefined, once
   * nothing touches guest memory any more (I/O in flight has ended); the driver is told then. Not called where
   * the device is not active.
   */
  reset(): Promise<void> | undefined;
  /**
   * Blocks until no I/O is in flight. Called before `reset` where the driver may not wait for the end of a reset:
   * Linux over virtio-mmio does not.
   */
  quiesce?(): void;
  /** Starts no more I/O, and resolves when none is in flight: the machine is about to be saved. */
  pause?(): Promise<void>;
  /** Goes on after `pause`. Every queue is notified afterwards. */
  resume?(): void;
  /** Frees what it holds. Its machine has stopped and it was reset; nothing is called any more. */
  close?(): void;
  /** The device's own state as plain data, without queues, features and what the host configures. */
  save(): unknown;
  /**
   * Takes what `save` gave, before `activate` where the device was active. Requests that were in flight are popped
   * again. @throws DeviceStateError where it makes no sense
   */
  restore(state: unknown): void;
};
