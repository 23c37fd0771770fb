/** What both transports have in common: the status machine, negotiation, the set-up of queues, activation. */
import type { GuestMemory } from '../kvm/guest-memory.ts';
import { checkCoreState, isActive, type CoreState } from './core-state.ts';
import type { VirtioDevice } from './device.ts';
import { Features, VIRTIO_F } from './features.ts';
import { LiveDevice } from './live-device.ts';
import { layoutFault, QUEUE_SIZE_LIMIT } from './queue-layout.ts';
import { freshQueue, layoutOf, type QueueAddress, type QueueSetup } from './queue-setup.ts';
import type { QueueProgress } from './queue.ts';
import { isNegotiated, STATUS, statusStep } from './status.ts';

const TRANSPORT_FEATURES = Features.of(VIRTIO_F.version1, VIRTIO_F.indirectDesc, VIRTIO_F.eventIdx);

/** The part that differs between transports. */
export type TransportHooks = {
  /** Something that the driver can read has changed. */
  changed(): void;
  queueInterrupt(index: number): void;
  configInterrupt(): void;
  /** The queues are live: from now on notifications count. */
  activated(): void;
  /** They are not any more. */
  deactivated(): void;
  /** The device was reset, and the transport's own registers are to be. */
  reset(): void;
};

export type CoreOptions = {
  readonly device: VirtioDevice;
  readonly memory: GuestMemory;
  readonly hooks: TransportHooks;
  /** whether the driver may go on without waiting for the end of a reset */
  readonly resetBlocks: boolean;
  /** takes lines for the log: what a guest did wrong, failures of the device */
  readonly report?: ((message: string) => void) | undefined;
  /** calls back later in the event loop; default `setImmediate` */
  readonly defer?: ((callback: () => void) => void) | undefined;
};

/** The registers of a device without their places: status, negotiation, queue set-up. */
export class VirtioCore {
  readonly device: VirtioDevice;
  /** what the device and the transport offer together */
  readonly offered: Features;
  deviceFeatureSelect = 0;
  driverFeatureSelect = 0;
  queueSelect = 0;
  readonly #memory: GuestMemory;
  readonly #hooks: TransportHooks;
  readonly #resetBlocks: boolean;
  readonly #report: (message: string) => void;
  readonly #defer: (callback: () => void) => void;
  #status = 0;
  #configGeneration = 0;
  #driverFeatures = new Features(0, 0);
  #queues: QueueSetup[];
  #live: LiveDevice | undefined;
  #resetting: Promise<void> | undefined;
  #paused = false;

  /** @throws RangeError for a device that the specification does not allow */
  constructor(options: CoreOptions) {
    const { device } = options;
    for (const size of device.queueSizes) {
      if (size < 1 || size > QUEUE_SIZE_LIMIT || (size & (size - 1)) !== 0)
        throw new RangeError(`${device.name}: ${size} is no queue size`);
    }
    this.device = device;
    this.offered = device.features.union(TRANSPORT_FEATURES);
    this.#memory = options.memory;
    this.#hooks = options.hooks;
    this.#resetBlocks = options.resetBlocks;
    this.#report = options.report ?? (() => undefined);
    this.#defer = options.defer ?? ((callback) => void setImmediate(callback));
    this.#queues = device.queueSizes.map(freshQueue);
    device.config.listener = (byDevice) => {
      if (byDevice) this.#configGeneration = (this.#configGeneration + 1) >>> 0;
      this.#hooks.changed();
      if (byDevice && this.#live !== undefined) this.#hooks.configInterrupt();
    };
  }

  get status(): number {
    return this.#status;
  }

  /** Goes up with each change of the configuration space by the device, and is not reset. */
  get configGeneration(): number {
    return this.#configGeneration;
  }

  /** the queue chosen by {@link queueSelect} */
  get selectedQueue(): QueueSetup | undefined {
    return this.#queues[this.queueSelect];
  }

  get queueCount(): number {
    return this.#queues.length;
  }

  /** Indices of the queues that are live. */
  get liveQueues(): number[] {
    return this.#live?.queues.flatMap((queue) => (queue === undefined ? [] : [queue.index])) ?? [];
  }

  /** The word of offered features chosen by {@link deviceFeatureSelect}. */
  get deviceFeatures(): number {
    return this.offered.word(this.deviceFeatureSelect);
  }

  /** The word of accepted features chosen by {@link driverFeatureSelect}. */
  get driverFeatures(): number {
    return this.#driverFeatures.word(this.driverFeatureSelect);
  }

  /** Takes effect while the driver negotiates: after DRIVER, before FEATURES_OK. */
  writeDriverFeatures(value: number): void {
    if (this.#status !== (STATUS.acknowledge | STATUS.driver)) return;
    const { low, high } = this.#driverFeatures;
    if (this.driverFeatureSelect === 0) this.#driverFeatures = new Features(value, high);
    else if (this.driverFeatureSelect === 1) this.#driverFeatures = new Features(low, value);
    else if (value !== 0) {
      // Bits above 63 are never offered. They have no place here, so a bit that is not offered stands for them.
      this.#driverFeatures = new Features(0xffff_ffff, 0xffff_ffff);
    }
  }

  writeQueueSize(value: number): void {
    const queue = this.#changeableQueue();
    if (queue !== undefined) queue.size = value & 0xffff;
  }

  /** @param half 0 for the low 32 bits, 1 for the high ones */
  writeQueueAddress(part: QueueAddress, half: 0 | 1, value: number): void {
    const queue = this.#changeableQueue();
    if (queue !== undefined) queue[part][half] = value >>> 0;
  }

  /** Makes the chosen queue ready, unless something is wrong with it: then it stays as it is. */
  enableQueue(): void {
    const queue = this.#changeableQueue();
    if (queue === undefined) return;
    const fault = layoutFault(layoutOf(queue), queue.sizeLimit, this.#memory);
    queue.refused = fault !== undefined;
    queue.ready = fault === undefined;
    if (fault !== undefined) this.#log(`queue ${this.queueSelect} is refused: ${fault}`);
  }

  /** Before DRIVER_OK alone: a live queue ends with a reset of the device. */
  disableQueue(): void {
    const queue = this.selectedQueue;
    if (queue !== undefined && this.#isSettingUp()) queue.ready = queue.refused = false;
  }

  /** A write of the device status register (2.1, 3.1). Anything but the next step is ignored. */
  writeStatus(value: number): void {
    if (this.#resetting !== undefined) return;
    if (value === 0) {
      void this.reset();
      return;
    }
    const step = statusStep(this.#status, value);
    if (step === STATUS.featuresOk) this.#agree();
    else if (step === STATUS.driverOk) this.#start();
    else if (step !== 0) this.#setStatus(this.#status | step);
  }

  /** The driver says that a queue has something in it; of no effect unless the queue is live. */
  notify(index: number): void {
    const live = this.#live;
    if (live?.queues[index] === undefined || live.ended || this.#paused) return;
    this.#guard(() => this.device.notified(index));
  }

  /**
   * Resets the device, as the driver's write of 0 does; resolves when it is done. The driver sees the status that
   * was there until then.
   */
  reset(): Promise<void> {
    if (this.#resetting !== undefined) return this.#resetting;
    const live = this.#live;
    let ending: Promise<void> | undefined;
    if (live !== undefined) {
      live.end();
      this.#live = undefined;
      this.#hooks.deactivated();
      try {
        if (this.#resetBlocks) this.device.quiesce?.();
        ending = this.device.reset();
      } catch (error) {
        this.#log(`failed to reset: ${describe(error)}`);
      }
    }
    if (ending === undefined) {
      this.#resetDone();
      return Promise.resolve();
    }
    this.#resetting = ending
      .catch((error: unknown) => this.#log(`failed to reset: ${describe(error)}`))
      .then(() => {
        this.#resetting = undefined;
        this.#resetDone();
      });
    return this.#resetting;
  }

  /** Stops the device for a snapshot: no request is taken and no I/O is in flight once it resolves. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#resetting;
    await this.device.pause?.();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.device.resume?.();
    this.#live?.notifyAllLater();
  }

  /** Plain data. Only while paused. */
  save(): CoreState {
    if (!this.#paused || this.#resetting !== undefined) {
      throw new Error(`${this.device.name}: only a paused device is saved`);
    }
    const live = this.#live;
    return {
      status: this.#status,
      deviceFeatureSelect: this.deviceFeatureSelect,
      driverFeatureSelect: this.driverFeatureSelect,
      queueSelect: this.queueSelect,
      driverFeatures: [this.#driverFeatures.low, this.#driverFeatures.high],
      configGeneration: this.#configGeneration,
      queues: this.#queues.map(({ size, ready, refused, descriptors, driver, device }, i) => {
        const progress = live?.ended === false ? live.queues[i]?.save() : undefined;
        const setup = structuredClone({ size, ready, refused, descriptors, driver, device });
        return progress ? { ...setup, progress: { ...progress, inFlight: [...progress.inFlight] } } : setup;
      }),
      device: this.device.save(),
    };
  }

  /**
   * Takes what {@link save} gave, into a device that nothing was done with. It is paused afterwards.
   * @throws DeviceStateError where it does not fit this device or this memory; nothing was changed then
   */
  restore(data: unknown): void {
    const state = checkCoreState(data, {
      name: this.device.name,
      memory: this.#memory,
      sizeLimits: this.device.queueSizes,
      accepts: (features) => this.#acceptable(features),
    });
    this.device.restore(state.device);
    this.#status = state.status;
    this.deviceFeatureSelect = state.deviceFeatureSelect;
    this.driverFeatureSelect = state.driverFeatureSelect;
    this.queueSelect = state.queueSelect;
    this.#driverFeatures = new Features(...state.driverFeatures);
    // what the driver has read may differ from what the device says now
    this.#configGeneration = (state.configGeneration + 1) >>> 0;
    this.#queues = state.queues.map(({ size, ready, refused, descriptors, driver, device }, i) => ({
      ...structuredClone({ size, ready, refused, descriptors, driver, device }),
      sizeLimit: this.device.queueSizes[i]!,
    }));
    this.#paused = true;
    if (isActive(state.status)) this.#activate(state.queues.map(({ progress }) => progress));
    this.#hooks.changed();
  }

  /** FEATURES_OK: stays clear where the device cannot work with what was chosen (2.2.2, 3.1.1). */
  #agree(): void {
    if (this.#acceptable(this.#driverFeatures)) this.#setStatus(this.#status | STATUS.featuresOk);
    else this.#log('the driver accepts features that are not offered, or a set that makes no sense');
  }

  /** DRIVER_OK */
  #start(): void {
    this.#setStatus(this.#status | STATUS.driverOk);
    const refused = this.#queues.findIndex((queue) => queue.refused);
    if (refused >= 0) this.#fail(`queue ${refused} was set up wrongly`);
    else this.#activate([]);
  }

  /** Makes the device active, or failed. */
  #activate(progress: readonly (QueueProgress | undefined)[]): void {
    const live = new LiveDevice({
      memory: this.#memory,
      features: this.#driverFeatures,
      queues: this.#queues,
      progress,
      host: {
        interrupt: (index) => this.#hooks.queueInterrupt(index),
        broken: (index, reason) => this.#fail(`queue ${index}: ${reason}`),
      },
      notify: (index) => this.notify(index),
      defer: this.#defer,
    });
    this.#live = live;
    this.#guard(() =>
      this.device.activate({
        memory: this.#memory,
        features: this.#driverFeatures,
        queues: live.queues,
        signal: live.signal,
        needsReset: (reason) => {
          if (!live.ended) this.#fail(reason);
        },
      }),
    );
    if (live.ended) return;
    this.#guard(() => this.#hooks.activated());
    // The driver may have notified before the device listened (3.1.1 allows buffers to be there before DRIVER_OK).
    if (!this.#paused) live.notifyAllLater();
  }

  /** DEVICE_NEEDS_RESET (2.1.2): the driver hears of it where it is up, and the queues are dead until a reset. */
  #fail(reason: string): void {
    this.#log(`needs a reset: ${reason}`);
    this.#live?.end();
    this.#setStatus(this.#status | STATUS.needsReset);
    if ((this.#status & STATUS.driverOk) !== 0) this.#hooks.configInterrupt();
  }

  #guard(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#fail(describe(error));
    }
  }

  #resetDone(): void {
    this.#status = 0;
    this.deviceFeatureSelect = this.driverFeatureSelect = this.queueSelect = 0;
    this.#driverFeatures = new Features(0, 0);
    this.#queues = this.device.queueSizes.map(freshQueue);
    this.#hooks.reset();
    this.#hooks.changed();
  }

  #setStatus(status: number): void {
    this.#status = status;
    this.#hooks.changed();
  }

  #acceptable(features: Features): boolean {
    return (
      features.isSubsetOf(this.offered) &&
      features.has(VIRTIO_F.version1) &&
      (this.device.accepts?.(features) ?? true)
    );
  }

  #isSettingUp(): boolean {
    return isNegotiated(this.#status) && this.#resetting === undefined;
  }

  #changeableQueue(): QueueSetup | undefined {
    const queue = this.selectedQueue;
    return queue !== undefined && !queue.ready && this.#isSettingUp() ? queue : undefined;
  }

  #log(message: string): void {
    this.#report(`${this.device.name}: ${message}`);
  }
}

const describe = (error: unknown): string => (error instanceof Error ? error.message : String(error));
