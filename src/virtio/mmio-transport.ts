import type { AccessSize, Bus, EdgeLine, ReadMode, RegionHandle, WriteMode } from '../kvm/bus.ts';
import type { GuestMemory } from '../kvm/guest-memory.ts';
import type { Notifier } from '../kvm/notify.ts';
import type { VirtioDevice } from './device.ts';
import { RegisterImage } from './register-image.ts';
import type { QueueAddress } from './queue-setup.ts';
import { checkState } from '../kvm/device-state.ts';
import { mmioSchema } from './transport-state.ts';
import { VirtioCore } from './transport.ts';

/** Registers (VIRTIO 1.2, 4.2.2 "MMIO Device Register Layout"). */
export const MMIO = {
  magic: 0x000,
  version: 0x004,
  deviceId: 0x008,
  vendorId: 0x00c,
  deviceFeatures: 0x010,
  deviceFeaturesSel: 0x014,
  driverFeatures: 0x020,
  driverFeaturesSel: 0x024,
  queueSel: 0x030,
  queueNumMax: 0x034,
  queueNum: 0x038,
  queueReady: 0x044,
  queueNotify: 0x050,
  interruptStatus: 0x060,
  interruptAck: 0x064,
  status: 0x070,
  queueDescLow: 0x080,
  queueDriverLow: 0x090,
  queueDeviceLow: 0x0a0,
  shmLenLow: 0x0b0,
  configGeneration: 0x0fc,
  config: 0x100,
} as const;

const MAGIC = 0x7472_6976;
const VERSION = 2;
/** "TSVM", as other machines put their names there */
const VENDOR = 0x4d56_5354;
const PAGE = 0x1000;

/** InterruptStatus bits */
const USED_BUFFER = 1;
const CONFIG_CHANGE = 2;

const QUEUE_PARTS: ReadonlyMap<number, readonly [QueueAddress, 0 | 1]> = new Map([
  [MMIO.queueDescLow, ['descriptors', 0]],
  [MMIO.queueDescLow + 4, ['descriptors', 1]],
  [MMIO.queueDriverLow, ['driver', 0]],
  [MMIO.queueDriverLow + 4, ['driver', 1]],
  [MMIO.queueDeviceLow, ['device', 0]],
  [MMIO.queueDeviceLow + 4, ['device', 1]],
]);

/**
 * Reads come from the shadow, that of InterruptStatus at once: it is changed in one step. ConfigGeneration is
 * trapped: a driver that reads the fields between two reads of it must see a change in either both or none, and
 * changes are made on the event loop, between trapped reads.
 */
function readModes(): ReadMode[] {
  const modes = Array<ReadMode>(PAGE).fill('ordered');
  modes.fill('shadow', MMIO.interruptStatus, MMIO.interruptStatus + 4);
  modes.fill('trap', MMIO.configGeneration, MMIO.configGeneration + 4);
  return modes;
}

/**
 * Registers are posted, as the driver notices their effect by reading alone; not so Status, since drivers take a
 * reset for done without reading it. InterruptACK clears InterruptStatus on the spot, before the driver looks for what
 * the interrupt was about: bits that are set from then on come with an interrupt of their own.
 */
function writeModes(writable: readonly boolean[]): WriteMode[] {
  const modes = Array<WriteMode>(PAGE).fill('ignore');
  modes.fill('posted', 0, MMIO.config);
  modes.fill('trap', MMIO.status, MMIO.status + 4);
  modes.fill('clear', MMIO.interruptAck, MMIO.interruptAck + 4);
  writable.forEach((may, i) => {
    if (may) modes[MMIO.config + i] = 'posted';
  });
  return modes;
}

export type MmioTransportOptions = {
  readonly device: VirtioDevice;
  readonly memory: GuestMemory;
  readonly bus: Bus;
  readonly notifier: Notifier;
  /** guest-physical address of the registers, one page */
  readonly base: number;
  /**
   * Not a level: an acknowledgement would have to wait for JavaScript to lower it. Each cause that the driver has not
   * acknowledged yet came with an edge after it was set.
   */
  readonly irq: EdgeLine;
  readonly gsi: number;
  readonly report?: (message: string) => void;
  readonly defer?: (callback: () => void) => void;
};

/** Virtio over memory-mapped registers, version 2 (VIRTIO 1.2, 4.2). */
export class MmioTransport {
  readonly core: VirtioCore;
  /** what the guest is told of it, by ACPI or on the kernel's command line */
  readonly mmioConfig: { readonly base: number; readonly size: number; readonly gsi: number };
  readonly #device: VirtioDevice;
  readonly #image = new RegisterImage(PAGE);
  readonly #region: RegionHandle;
  readonly #irq: EdgeLine;
  #attached: { detach(): void }[] = [];

  constructor(options: MmioTransportOptions) {
    const { device, base, gsi, notifier } = options;
    this.#device = device;
    this.#irq = options.irq;
    this.mmioConfig = { base, size: PAGE, gsi };
    if (device.config.bytes.length > PAGE - MMIO.config)
      throw new RangeError(`${device.name}: the configuration space does not fit`);
    this.core = new VirtioCore({
      device,
      memory: options.memory,
      resetBlocks: true,
      report: options.report,
      defer: options.defer,
      hooks: {
        changed: () => this.#refresh(),
        queueInterrupt: () => this.#raise(USED_BUFFER),
        configInterrupt: () => this.#raise(CONFIG_CHANGE),
        activated: () => {
          for (const queue of this.core.liveQueues) {
            const at = {
              space: 'mmio',
              address: base + MMIO.queueNotify,
              size: 4,
              datamatch: queue,
            } as const;
            this.#attached.push(notifier.attach(at, () => this.core.notify(queue)));
          }
        },
        deactivated: () => this.#detach(),
        reset: () => this.#clearInterrupts(),
      },
    });
    this.#region = options.bus.add({
      name: device.name,
      space: 'mmio',
      base,
      size: PAGE,
      reads: readModes(),
      writes: writeModes(device.config.writable),
      clears: MMIO.interruptStatus,
      read: (offset, size) => this.#image.get(offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
    });
    this.#image.bind(this.#region.shadow);
    this.#image.set32(MMIO.magic, MAGIC);
    this.#image.set32(MMIO.version, VERSION);
    this.#image.set32(MMIO.deviceId, device.deviceId);
    this.#image.set32(MMIO.vendorId, VENDOR);
    // There is no shared memory region: its length and base read as all ones (4.2.2).
    for (let i = 0; i < 16; i += 4) this.#image.set32(MMIO.shmLenLow + i, 0xffff_ffff);
    this.#refresh();
  }

  /** The device on the kernel's command line, where the kernel has no ACPI. */
  get kernelParameter(): string {
    const { base, size, gsi } = this.mmioConfig;
    return `virtio_mmio.device=${size / 1024}K@0x${base.toString(16)}:${gsi}`;
  }

  /** As the board's reset line. */
  reset(): Promise<void> {
    return this.core.reset();
  }

  /** Plain data. Only while the core is paused. */
  save(): unknown {
    return { core: this.core.save(), interruptStatus: this.#region.shadow[MMIO.interruptStatus] };
  }

  /** @throws DeviceStateError, with nothing changed */
  restore(data: unknown): void {
    const state = checkState(this.#device.name, mmioSchema, data);
    this.core.restore(state.core);
    this.#clearInterrupts();
    if (state.interruptStatus !== 0) this.#raise(state.interruptStatus);
  }

  /** Takes the device off the bus, once its reset is done. */
  async close(): Promise<void> {
    await this.core.reset();
    this.#region.remove();
  }

  #write(offset: number, size: AccessSize, value: number): void {
    if (offset >= MMIO.config) {
      this.#device.config.driverWrite(offset - MMIO.config, size, value);
      return;
    }
    // Registers are 32 bits wide and so are accesses to them (4.2.2.2).
    if (size !== 4 || offset % 4 !== 0) return;
    const { core } = this;
    switch (offset) {
      case MMIO.deviceFeaturesSel:
        core.deviceFeatureSelect = value;
        break;
      case MMIO.driverFeaturesSel:
        core.driverFeatureSelect = value;
        break;
      case MMIO.driverFeatures:
        core.writeDriverFeatures(value);
        break;
      case MMIO.queueSel:
        core.queueSelect = value;
        break;
      case MMIO.queueNum:
        core.writeQueueSize(value > 0xffff ? 0 : value);
        break;
      case MMIO.queueReady:
        if (value === 1) core.enableQueue();
        else if (value === 0) core.disableQueue();
        break;
      case MMIO.queueNotify:
        // Of a queue that has no ioeventfd, or not yet.
        core.notify(value);
        return;
      case MMIO.status:
        core.writeStatus(value);
        break;
      default: {
        const part = QUEUE_PARTS.get(offset);
        if (part !== undefined) core.writeQueueAddress(part[0], part[1], value);
      }
    }
    this.#refresh();
  }

  #refresh(): void {
    const { core } = this;
    const image = this.#image;
    const queue = core.selectedQueue;
    image.set32(MMIO.deviceFeatures, core.deviceFeatures);
    image.set32(MMIO.queueNumMax, queue?.sizeLimit ?? 0);
    image.set32(MMIO.queueReady, queue?.ready === true ? 1 : 0);
    image.set32(MMIO.status, core.status);
    image.setBytes(MMIO.config, this.#device.config.bytes);
    image.set32(MMIO.configGeneration, core.configGeneration);
  }

  #raise(bits: number): void {
    Atomics.or(this.#region.shadow, MMIO.interruptStatus, bits);
    this.#irq.pulse();
  }

  #clearInterrupts(): void {
    Atomics.store(this.#region.shadow, MMIO.interruptStatus, 0);
  }

  #detach(): void {
    for (const attachment of this.#attached) attachment.detach();
    this.#attached = [];
  }
}

/** A slot without a device: its device ID 0 tells drivers to leave it alone (4.2.3.1.1). */
export function addEmptyMmioSlot(bus: Bus, base: number): RegionHandle {
  const handle = bus.add({
    name: 'virtio-mmio',
    space: 'mmio',
    base,
    size: PAGE,
    reads: 'shadow',
    writes: 'ignore',
  });
  const image = new RegisterImage(PAGE);
  image.set32(MMIO.magic, MAGIC);
  image.set32(MMIO.version, VERSION);
  image.bind(handle.shadow);
  return handle;
}
