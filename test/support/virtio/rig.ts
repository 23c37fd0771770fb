import { VIRTIO_MMIO } from '../../../src/boot/layout.ts';
import { PciRootBus } from '../../../src/machine/pci/root-bus.ts';
import type { VirtioDevice } from '../../../src/virtio/device.ts';
import { MmioTransport } from '../../../src/virtio/mmio-transport.ts';
import { PciTransport } from '../../../src/virtio/pci-transport.ts';
import type { VirtioCore } from '../../../src/virtio/transport.ts';
import { FakeIrq } from '../fake-bus.ts';
import { Arena, DriverQueue, type Buffer } from './driver-queue.ts';
import { FakeMachine, LOW_RAM, type MemoryShape } from './machine.ts';
import { MmioDriver } from './mmio-driver.ts';
import { PciDriver } from './pci-driver.ts';
import type { TransportDriver } from './transport-driver.ts';

export const FEATURE = { indirect: 28, eventIdx: 29, version1: 32 } as const;

export type RigOptions = { readonly transport: TransportDriver['kind']; readonly memory: MemoryShape };

/** Features to accept: ring features by bit, and of the device's own all or those given. */
export type Negotiation = { readonly bits?: readonly number[]; readonly queueSize?: number };

const bit = (word: number, index: number): boolean => ((word >>> index) & 1) === 1;

/** A device behind a transport, in a machine without KVM, and its driver. */
export class Rig {
  readonly machine: FakeMachine;
  readonly device: VirtioDevice;
  readonly core: VirtioCore;
  readonly driver: TransportDriver;
  readonly irq = new FakeIrq();
  /** where rings go, and where buffers go */
  readonly rings = new Arena(0x1000, 0x20000);
  readonly buffers = new Arena(0x20000, LOW_RAM);
  /** of the machine, as a snapshot holds it */
  readonly save: () => unknown;
  readonly restore: (state: unknown) => void;
  readonly pci: PciRootBus | undefined;
  queues: (DriverQueue | undefined)[] = [];

  constructor(device: VirtioDevice, options: RigOptions, machine = new FakeMachine(options.memory)) {
    this.machine = machine;
    this.device = device;
    const { bus, notifier, messages, memory, defer, report } = machine;
    const common = { device, memory, notifier, defer, report };
    if (options.transport === 'mmio') {
      const base = VIRTIO_MMIO.base;
      const transport = new MmioTransport({ ...common, bus, base, irq: this.irq, gsi: 5 });
      this.core = transport.core;
      this.save = () => transport.save();
      this.restore = (state) => transport.restore(state);
      this.driver = new MmioDriver(machine, base, this.irq);
    } else {
      const root = new PciRootBus({ bus, messages, interrupts: [{ gsi: 16, line: this.irq }] });
      const transport = new PciTransport(common);
      const slot = root.add(transport);
      this.pci = root;
      this.core = transport.core;
      this.save = () => root.save();
      this.restore = (state) => root.restore(state);
      this.driver = new PciDriver(machine, slot, this.irq, options.transport);
    }
  }

  /** Accepts features of the device: all it has of its own, and ring features as asked. */
  acceptFeatures(bits: readonly number[] = [FEATURE.version1]): void {
    const { driver } = this;
    const ring: readonly number[] = [FEATURE.indirect, FEATURE.eventIdx];
    for (const select of [0, 1]) {
      const offered = driver.deviceFeatures(select);
      let accepted = 0;
      for (let i = 0; i < 32; i++) {
        const index = 32 * select + i;
        if (
          bit(offered, i) &&
          (bits.includes(index) || !(ring.includes(index) || index === FEATURE.version1))
        ) {
          accepted |= 1 << i;
        }
      }
      driver.acceptFeatures(select, accepted >>> 0);
    }
  }

  /** Reset to FEATURES_OK. */
  negotiate(options: Negotiation = {}): void {
    const { driver } = this;
    driver.status = 0;
    driver.status = 1;
    driver.status = 3;
    this.acceptFeatures([FEATURE.version1, ...(options.bits ?? [])]);
    driver.status = 0x0b;
    if (driver.status !== 0x0b) throw new Error('the device refuses FEATURES_OK');
  }

  /** Sets up one queue in memory and in the selected registers. */
  setUpQueue(index: number, size?: number): DriverQueue {
    const { driver } = this;
    driver.selectQueue(index);
    const limit = driver.queueSizeLimit();
    const queue = new DriverQueue(this.machine.memory, this, index, Math.min(size ?? 16, limit));
    driver.setQueueSize(queue.size);
    driver.setQueueAddress('descriptors', queue.at.descriptors);
    driver.setQueueAddress('driver', queue.at.driver);
    driver.setQueueAddress('device', queue.at.device);
    driver.enableQueue();
    return queue;
  }

  /** From reset to DRIVER_OK, as VIRTIO 1.2, 3.1.1 has it. */
  start(options: Negotiation = {}): void {
    this.rings.clear();
    this.buffers.clear();
    this.negotiate(options);
    this.queues = this.device.queueSizes.map((_, index) => this.setUpQueue(index, options.queueSize));
    this.driver.status = 0x0f;
    this.machine.settle();
  }

  queue(index: number): DriverQueue {
    return this.queues[index]!;
  }

  /** Makes a request available and notifies. */
  send(queue: DriverQueue, buffers: readonly Buffer[], options: { indirect?: boolean } = {}): number {
    const head = queue.chain(queue.place(buffers), options);
    queue.publish();
    this.driver.notify(queue.index);
    return head;
  }

  /** Sends a request and waits for its answer. */
  async ask(
    queue: DriverQueue,
    buffers: readonly Buffer[],
    options: { indirect?: boolean } = {},
  ): Promise<{ head: number; written: number; reply: Uint8Array }> {
    const head = this.send(queue, buffers, options);
    await this.machine.until(() => queue.hasUsed);
    const [used] = queue.collect();
    if (used?.head !== head)
      throw new Error(`the device has used ${used?.head ?? 'nothing'} instead of ${head}`);
    return { head, written: used.written, reply: queue.reply(used.buffers) };
  }
}
