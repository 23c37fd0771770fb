import type { AccessSize } from '../../../src/kvm/bus.ts';
import { PCI_ECAM } from '../../../src/boot/layout.ts';
import type { FakeIrq } from '../fake-bus.ts';
import type { FakeMachine } from './machine.ts';
import type { TransportDriver } from './transport-driver.ts';

/** Offsets in the common configuration structure (VIRTIO 1.2, 4.1.4.3). */
const COMMON = {
  deviceFeatureSelect: 0,
  deviceFeature: 4,
  driverFeatureSelect: 8,
  driverFeature: 12,
  configVector: 16,
  status: 20,
  generation: 21,
  queueSelect: 22,
  queueSize: 24,
  queueVector: 26,
  queueEnable: 28,
  queueNotifyOff: 30,
  descriptors: 32,
  driver: 40,
  device: 48,
} as const;

type Structure = { readonly address: number; readonly length: number };

/** A PCI function as a driver reaches it, through ECAM and its BARs, found by its capabilities. */
export class PciHandle {
  readonly machine: FakeMachine;
  readonly #ecam: number;

  constructor(machine: FakeMachine, device: number) {
    this.machine = machine;
    this.#ecam = PCI_ECAM.base + device * 0x8000;
  }

  read(offset: number, size: AccessSize): number {
    return this.machine.read('mmio', this.#ecam + offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.machine.write('mmio', this.#ecam + offset, size, value);
  }

  /** Offsets of all capabilities with this id. */
  capabilities(id: number): number[] {
    const found: number[] = [];
    for (let at = this.read(0x34, 1), left = 48; at !== 0 && left > 0; at = this.read(at + 1, 1), left--) {
      if (this.read(at, 1) === id) found.push(at);
    }
    return found;
  }

  /** Where a 64-bit BAR lies. */
  bar(index: number): number {
    return (
      this.read(0x10 + 4 * index + 4, 4) * 2 ** 32 +
      this.read(0x10 + 4 * index, 4) -
      (this.read(0x10 + 4 * index, 4) % 16)
    );
  }

  /** Memory decode and bus mastering on. */
  enable(): void {
    this.write(4, 2, 0x0006);
  }
}

/** A driver of virtio over PCI, with MSI-X, one vector a queue and one for the configuration, or with INTx. */
export class PciDriver implements TransportDriver {
  readonly kind: 'pci' | 'pci-intx';
  readonly handle: PciHandle;
  readonly common: Structure;
  readonly notifications: Structure & { readonly multiplier: number };
  readonly isr: Structure;
  readonly config: Structure | undefined;
  readonly #machine: FakeMachine;
  readonly #irq: FakeIrq;
  readonly #notifyOffsets = new Map<number, number>();
  readonly #table: number;
  readonly #vectors: number;

  constructor(machine: FakeMachine, device: number, irq: FakeIrq, kind: 'pci' | 'pci-intx') {
    this.kind = kind;
    this.#machine = machine;
    this.#irq = irq;
    const handle = new PciHandle(machine, device);
    this.handle = handle;
    handle.enable();
    const structures = new Map<number, Structure & { at: number }>();
    for (const at of handle.capabilities(0x09)) {
      const address = handle.bar(handle.read(at + 4, 1)) + handle.read(at + 8, 4);
      structures.set(handle.read(at + 3, 1), { address, length: handle.read(at + 12, 4), at });
    }
    this.common = structures.get(1)!;
    const notifications = structures.get(2)!;
    this.notifications = { ...notifications, multiplier: handle.read(notifications.at + 16, 4) };
    this.isr = structures.get(3)!;
    this.config = structures.get(4);
    const msix = handle.capabilities(0x11)[0]!;
    this.#vectors = (handle.read(msix + 2, 2) & 0x7ff) + 1;
    this.#table =
      handle.bar(handle.read(msix + 4, 4) & 7) + handle.read(msix + 4, 4) - (handle.read(msix + 4, 4) & 7);
    if (kind === 'pci') this.#enableMsix(msix);
  }

  #enableMsix(msix: number): void {
    // As Linux does it: on with all masked, entries, then the mask off.
    this.handle.write(msix + 2, 2, 0xc000);
    for (let vector = 0; vector < this.#vectors; vector++) {
      const at = this.#table + 16 * vector;
      this.#machine.write('mmio', at, 4, 0xfee0_0000);
      this.#machine.write('mmio', at + 4, 4, 0);
      this.#machine.write('mmio', at + 8, 4, 0x40 + vector);
      this.#machine.write('mmio', at + 12, 4, 0);
    }
    this.handle.write(msix + 2, 2, 0x8000);
    this.#machine.settle();
  }

  #read(offset: number, size: AccessSize): number {
    return this.#machine.read('mmio', this.common.address + offset, size);
  }

  #write(offset: number, size: AccessSize, value: number): void {
    this.#machine.write('mmio', this.common.address + offset, size, value);
  }

  get status(): number {
    return this.#read(COMMON.status, 1);
  }

  set status(value: number) {
    this.#write(COMMON.status, 1, value);
    if (value === 0 || this.kind !== 'pci') return;
    // The driver sets vectors when it knows that the device listens, at the latest before DRIVER_OK.
    if ((value & 0x0f) === 0x0b) {
      this.#write(COMMON.configVector, 2, this.#vectors - 1);
      for (let queue = 0; queue < this.#vectors - 1; queue++) {
        this.#write(COMMON.queueSelect, 2, queue);
        this.#write(COMMON.queueVector, 2, queue);
      }
      this.#write(COMMON.queueSelect, 2, 0);
    }
  }

  deviceFeatures(select: number): number {
    this.#write(COMMON.deviceFeatureSelect, 4, select);
    return this.#read(COMMON.deviceFeature, 4);
  }

  acceptFeatures(select: number, word: number): void {
    this.#write(COMMON.driverFeatureSelect, 4, select);
    this.#write(COMMON.driverFeature, 4, word);
  }

  selectQueue(index: number): void {
    this.#write(COMMON.queueSelect, 2, index);
  }

  queueSizeLimit(): number {
    return this.#read(COMMON.queueSize, 2);
  }

  setQueueSize(size: number): void {
    this.#write(COMMON.queueSize, 2, size);
  }

  setQueueAddress(part: 'descriptors' | 'driver' | 'device', address: number | bigint): void {
    const wide = BigInt(address);
    this.#write(COMMON[part], 4, Number(wide & 0xffff_ffffn));
    this.#write(COMMON[part] + 4, 4, Number(wide >> 32n));
  }

  queueRegisters(): number[] {
    return [
      this.#read(COMMON.queueSize, 2),
      ...[32, 36, 40, 44, 48, 52].map((offset) => this.#read(offset, 4)),
    ];
  }

  enableQueue(): void {
    this.#write(COMMON.queueEnable, 2, 1);
  }

  queueEnabled(): boolean {
    return this.#read(COMMON.queueEnable, 2) === 1;
  }

  notify(queue: number): void {
    let offset = this.#notifyOffsets.get(queue);
    if (offset === undefined) {
      this.#write(COMMON.queueSelect, 2, queue);
      offset = this.#read(COMMON.queueNotifyOff, 2) * this.notifications.multiplier;
      this.#notifyOffsets.set(queue, offset);
    }
    this.#machine.write('mmio', this.notifications.address + offset, 2, queue);
  }

  interrupts(): { queues: boolean; config: boolean } {
    this.#machine.settle();
    if (this.kind === 'pci') {
      const vectors = this.#machine.messages.sent.map(({ data }) => data - 0x40);
      this.#machine.messages.sent = [];
      return {
        queues: vectors.some((vector) => vector < this.#vectors - 1),
        config: vectors.includes(this.#vectors - 1),
      };
    }
    if (!this.#isHigh()) return { queues: false, config: false };
    const isr = this.#machine.read('mmio', this.isr.address, 1);
    if (this.#isHigh()) throw new Error('the line is high after the ISR was read');
    return { queues: (isr & 1) !== 0, config: (isr & 2) !== 0 };
  }

  readConfig(offset: number, size: AccessSize): number {
    return this.#machine.read('mmio', this.config!.address + offset, size);
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    this.#machine.write('mmio', this.config!.address + offset, size, value);
  }

  generation(): number {
    return this.#read(COMMON.generation, 1);
  }

  leftovers(): number[] {
    return [
      this.#read(COMMON.deviceFeatureSelect, 4),
      this.#read(COMMON.driverFeatureSelect, 4),
      this.#read(COMMON.driverFeature, 4),
      this.#read(COMMON.queueSelect, 2),
      this.#read(COMMON.configVector, 2) ^ 0xffff,
      this.#read(COMMON.queueVector, 2) ^ 0xffff,
      this.#machine.read('mmio', this.isr.address, 1),
      this.#isHigh() ? 1 : 0,
    ];
  }

  misuse(): void {
    this.#write(COMMON.status, 2, 0);
    this.#write(COMMON.status, 4, 0);
    this.#write(COMMON.queueSelect, 1, 0xff);
    this.#write(COMMON.deviceFeature, 4, 0);
    this.#write(60, 4, 0xffff_ffff);
  }

  #isHigh(): boolean {
    return this.#irq.level;
  }
}
