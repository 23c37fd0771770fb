import type { AccessSize, ReadMode, WriteMode } from '../kvm/bus.ts';
import type { GuestMemory } from '../kvm/guest-memory.ts';
import type { Notifier } from '../kvm/notify.ts';
import type { VirtioDevice } from './device.ts';
import { virtioCapabilities } from './pci-capabilities.ts';
import {
  BAR,
  BAR_LAYOUT,
  BAR_SIZE,
  COMMON,
  COMMON_SIZE,
  NOTIFY_MULTIPLIER,
  NO_VECTOR,
} from './pci-layout.ts';
import type { BarRegion, PciBar, PciCapability, PciFunction, PciIdentity, PciSlot } from './pci-function.ts';
import { RegisterImage } from './register-image.ts';
import { checkState, DeviceStateError } from '../kvm/device-state.ts';
import type { QueueAddress } from './queue-setup.ts';
import { pciSchema } from './transport-state.ts';
import { VirtioCore } from './transport.ts';

/** ISR status bits (VIRTIO 1.2, 4.1.4.5) */
const ISR_QUEUE = 1;
const ISR_CONFIG = 2;
const UNCLASSIFIED = 0x00ff00;

const QUEUE_PARTS: ReadonlyMap<number, readonly [QueueAddress, 0 | 1]> = new Map([
  [COMMON.queueDesc, ['descriptors', 0]],
  [COMMON.queueDesc + 4, ['descriptors', 1]],
  [COMMON.queueDriver, ['driver', 0]],
  [COMMON.queueDriver + 4, ['driver', 1]],
  [COMMON.queueDevice, ['device', 0]],
  [COMMON.queueDevice + 4, ['device', 1]],
]);

/** How wide each register that can be written is; accesses of another width are ignored (4.1.3.1). */
const WIDTHS: ReadonlyMap<number, AccessSize> = new Map<number, AccessSize>([
  [COMMON.deviceFeatureSelect, 4],
  [COMMON.driverFeatureSelect, 4],
  [COMMON.driverFeature, 4],
  [COMMON.configMsixVector, 2],
  [COMMON.deviceStatus, 1],
  [COMMON.queueSelect, 2],
  [COMMON.queueSize, 2],
  [COMMON.queueMsixVector, 2],
  [COMMON.queueEnable, 2],
  ...[...QUEUE_PARTS.keys()].map((offset) => [offset, 4] as const),
]);

/** As for virtio-mmio: reads wait for posted writes alone, config_generation is trapped. */
function commonReads(): ReadMode[] {
  const modes = Array<ReadMode>(COMMON_SIZE).fill('ordered');
  modes[COMMON.configGeneration] = 'trap';
  return modes;
}

export type PciTransportOptions = {
  readonly device: VirtioDevice;
  readonly memory: GuestMemory;
  readonly notifier: Notifier;
  readonly report?: (message: string) => void;
  readonly defer?: (callback: () => void) => void;
};

/** Virtio over PCI, modern devices only (VIRTIO 1.2, 4.1), as a function for the board's PCI bus. */
export class PciTransport implements PciFunction {
  readonly core: VirtioCore;
  readonly name: string;
  readonly identity: PciIdentity;
  readonly bars: readonly PciBar[];
  readonly capabilities: readonly PciCapability[];
  readonly msix: { vectors: number; bar: number; table: number; pending: number };
  readonly interruptPin = true;
  readonly #device: VirtioDevice;
  readonly #notifier: Notifier;
  readonly #common = new RegisterImage(COMMON_SIZE);
  readonly #isrImage = new RegisterImage(4);
  readonly #config: RegisterImage;
  #slot: PciSlot | undefined;
  #isr = 0;
  #configVector = NO_VECTOR;
  #queueVectors: number[];
  /** guest-physical address of the notification registers, where they are placed */
  #notifyAddress: number | undefined;
  #attached: { detach(): void }[] = [];

  constructor(options: PciTransportOptions) {
    const { device } = options;
    this.name = device.name;
    this.#device = device;
    this.#notifier = options.notifier;
    // Ids: 4.1.2. Only revisions from 1 on, and subsystems from 0x40 on, are of devices that are not transitional.
    this.identity = {
      vendor: 0x1af4,
      device: 0x1040 + device.deviceId,
      revision: 1,
      classCode: device.pciClass ?? UNCLASSIFIED,
      subsystemVendor: 0x1af4,
      subsystem: 0x40 + device.deviceId,
    };
    const queues = device.queueSizes.length;
    this.#queueVectors = Array<number>(queues).fill(NO_VECTOR);
    // one for each queue and one for changes of the configuration
    this.msix = {
      vectors: queues + 1,
      bar: BAR,
      table: BAR_LAYOUT.msixTable,
      pending: BAR_LAYOUT.msixPending,
    };
    const configSize = device.config.bytes.length;
    if (configSize > BAR_LAYOUT.configLimit || queues > BAR_LAYOUT.queueLimit)
      throw new RangeError(`${device.name}: too many queues or configuration fields for its BAR`);
    this.#config = new RegisterImage(Math.ceil(configSize / 4) * 4);
    this.core = new VirtioCore({
      device,
      memory: options.memory,
      resetBlocks: false,
      report: options.report,
      defer: options.defer,
      hooks: {
        changed: () => this.#refresh(),
        queueInterrupt: (queue) => this.#interrupt(ISR_QUEUE, this.#queueVectors[queue] ?? NO_VECTOR),
        configInterrupt: () => this.#interrupt(ISR_CONFIG, this.#configVector),
        activated: () => this.#attach(),
        deactivated: () => this.#detach(),
        reset: () => {
          this.#configVector = NO_VECTOR;
          this.#queueVectors.fill(NO_VECTOR);
          this.#setIsr(0);
        },
      },
    });
    this.bars = [{ index: BAR, width: 64, size: BAR_SIZE, regions: this.#regions(queues) }];
    this.capabilities = virtioCapabilities({
      queues,
      configSize,
      readBar: (bar, offset, size) => this.#slot?.readBar(bar, offset, size) ?? 0xffff_ffff,
      writeBar: (bar, offset, size, value) => this.#slot?.writeBar(bar, offset, size, value),
    });
    this.#refresh();
  }

  attach(slot: PciSlot): void {
    this.#slot = slot;
  }

  reset(): Promise<void> {
    return this.core.reset();
  }

  pause(): Promise<void> {
    return this.core.pause();
  }

  resume(): void {
    this.core.resume();
  }

  save(): unknown {
    return {
      core: this.core.save(),
      isr: this.#isr,
      configVector: this.#configVector,
      queueVectors: [...this.#queueVectors],
    };
  }

  restore(data: unknown): void {
    const state = checkState(this.name, pciSchema, data);
    const vectors = [state.configVector, ...state.queueVectors];
    if (vectors.length !== this.msix.vectors || vectors.some((vector) => this.#vector(vector) !== vector))
      throw new DeviceStateError(`state of ${this.name}: interrupt vectors that it does not have`);
    this.core.restore(state.core);
    this.#configVector = state.configVector;
    this.#queueVectors = state.queueVectors;
    this.#setIsr(state.isr);
    this.#refresh();
  }

  #regions(queues: number): BarRegion[] {
    const { name } = this;
    const { config } = this.#device;
    const regions: BarRegion[] = [
      {
        name: `${name} common`,
        offset: BAR_LAYOUT.common,
        image: this.#common,
        reads: commonReads(),
        writes: 'posted',
        read: (offset, size) => this.#common.get(offset, size),
        write: (offset, size, value) => this.#writeCommon(offset, size, value),
      },
      {
        name: `${name} isr`,
        offset: BAR_LAYOUT.isr,
        image: this.#isrImage,
        // Read to clear: an interrupt after the read must set it again, so the read is one with the clearing.
        reads: 'trap',
        writes: 'ignore',
        read: () => {
          const isr = this.#isr;
          this.#setIsr(0);
          return isr;
        },
      },
      {
        name: `${name} notify`,
        offset: BAR_LAYOUT.notify,
        image: new RegisterImage(NOTIFY_MULTIPLIER * Math.max(queues, 1)),
        reads: 'shadow',
        // Only what no ioeventfd takes comes here. The address says which queue it is.
        writes: 'posted',
        write: (offset) => this.core.notify(Math.floor(offset / NOTIFY_MULTIPLIER)),
        placed: (address) => {
          this.#notifyAddress = address;
          this.#attach();
        },
        unplaced: () => {
          this.#notifyAddress = undefined;
          this.#detach();
        },
      },
    ];
    if (config.bytes.length > 0) {
      regions.push({
        name: `${name} config`,
        offset: BAR_LAYOUT.config,
        image: this.#config,
        reads: 'ordered',
        writes: Array.from({ length: this.#config.size }, (_, i): WriteMode =>
          config.writable[i] === true ? 'posted' : 'ignore',
        ),
        write: (offset, size, value) => config.driverWrite(offset, size, value),
      });
    }
    return regions;
  }

  #writeCommon(offset: number, size: AccessSize, value: number): void {
    if (WIDTHS.get(offset) !== size) return;
    const { core } = this;
    switch (offset) {
      case COMMON.deviceFeatureSelect:
        core.deviceFeatureSelect = value;
        break;
      case COMMON.driverFeatureSelect:
        core.driverFeatureSelect = value;
        break;
      case COMMON.driverFeature:
        core.writeDriverFeatures(value);
        break;
      case COMMON.configMsixVector:
        this.#configVector = this.#vector(value);
        break;
      case COMMON.deviceStatus:
        core.writeStatus(value);
        break;
      case COMMON.queueSelect:
        core.queueSelect = value;
        break;
      case COMMON.queueSize:
        core.writeQueueSize(value);
        break;
      case COMMON.queueMsixVector:
        if (core.selectedQueue !== undefined) this.#queueVectors[core.queueSelect] = this.#vector(value);
        break;
      case COMMON.queueEnable:
        // A driver cannot disable a queue, other than by a reset (4.1.4.3.2).
        if (value === 1) core.enableQueue();
        break;
      default: {
        const part = QUEUE_PARTS.get(offset);
        if (part !== undefined) core.writeQueueAddress(part[0], part[1], value);
      }
    }
    this.#refresh();
  }

  /** A vector that does not exist reads back as none (4.1.5.1.2). */
  #vector(value: number): number {
    return value < this.msix.vectors ? value : NO_VECTOR;
  }

  #refresh(): void {
    const { core } = this;
    const image = this.#common;
    const queue = core.selectedQueue;
    image.set32(COMMON.deviceFeatureSelect, core.deviceFeatureSelect);
    image.set32(COMMON.deviceFeature, core.deviceFeatures);
    image.set32(COMMON.driverFeatureSelect, core.driverFeatureSelect);
    image.set32(COMMON.driverFeature, core.driverFeatures);
    image.set16(COMMON.configMsixVector, this.#configVector);
    image.set16(COMMON.numQueues, core.queueCount);
    image.set8(COMMON.deviceStatus, core.status);
    image.set16(COMMON.queueSelect, core.queueSelect);
    image.set16(COMMON.queueSize, queue?.size ?? 0);
    image.set16(COMMON.queueMsixVector, this.#queueVectors[core.queueSelect] ?? NO_VECTOR);
    image.set16(COMMON.queueEnable, queue?.ready === true ? 1 : 0);
    image.set16(COMMON.queueNotifyOff, queue === undefined ? 0 : core.queueSelect);
    for (const [offset, [part, half]] of QUEUE_PARTS) image.set32(offset, queue?.[part][half] ?? 0);
    this.#config.setBytes(0, this.#device.config.bytes);
    image.set8(COMMON.configGeneration, core.configGeneration & 0xff);
  }

  /** By message, or where MSI-X is off by INTx, whose ISR bit is set first (4.1.4.5.1). */
  #interrupt(isr: number, vector: number): void {
    const slot = this.#slot;
    if (slot === undefined) return;
    if (!slot.msixEnabled) this.#setIsr(this.#isr | isr);
    else if (vector !== NO_VECTOR) slot.message(vector);
  }

  #setIsr(isr: number): void {
    this.#isr = isr;
    this.#isrImage.set8(0, isr);
    this.#slot?.pin(isr !== 0);
  }

  /** Each queue has an address of its own, so an ioeventfd needs no value to match. */
  #attach(): void {
    const base = this.#notifyAddress;
    if (base === undefined || this.#attached.length > 0) return;
    for (const queue of this.core.liveQueues) {
      const address = base + NOTIFY_MULTIPLIER * queue;
      this.#attached.push(
        this.#notifier.attach({ space: 'mmio', address, size: 0 }, () => this.core.notify(queue)),
      );
    }
  }

  #detach(): void {
    for (const attachment of this.#attached) attachment.detach();
    this.#attached = [];
  }
}
