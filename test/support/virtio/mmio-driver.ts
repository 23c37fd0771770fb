import { MMIO } from '../../../src/virtio/mmio-transport.ts';
import type { FakeIrq } from '../fake-bus.ts';
import type { FakeMachine } from './machine.ts';
import type { TransportDriver } from './transport-driver.ts';

const QUEUE_REGISTER = {
  descriptors: MMIO.queueDescLow,
  driver: MMIO.queueDriverLow,
  device: MMIO.queueDeviceLow,
} as const;

/** A driver of virtio-mmio. */
export class MmioDriver implements TransportDriver {
  readonly kind = 'mmio';
  readonly #machine: FakeMachine;
  readonly #base: number;
  readonly #irq: FakeIrq;
  /** edges that were taken */
  #seen = 0;

  constructor(machine: FakeMachine, base: number, irq: FakeIrq) {
    this.#machine = machine;
    this.#base = base;
    this.#irq = irq;
  }

  read(offset: number, size: 1 | 2 | 4 = 4): number {
    return this.#machine.read('mmio', this.#base + offset, size);
  }

  write(offset: number, value: number, size: 1 | 2 | 4 = 4): void {
    this.#machine.write('mmio', this.#base + offset, size, value);
  }

  get status(): number {
    return this.read(MMIO.status);
  }

  set status(value: number) {
    this.write(MMIO.status, value);
  }

  deviceFeatures(select: number): number {
    this.write(MMIO.deviceFeaturesSel, select);
    return this.read(MMIO.deviceFeatures);
  }

  acceptFeatures(select: number, word: number): void {
    this.write(MMIO.driverFeaturesSel, select);
    this.write(MMIO.driverFeatures, word);
  }

  selectQueue(index: number): void {
    this.write(MMIO.queueSel, index);
  }

  queueSizeLimit(): number {
    return this.read(MMIO.queueNumMax);
  }

  setQueueSize(size: number): void {
    this.write(MMIO.queueNum, size);
  }

  setQueueAddress(part: keyof typeof QUEUE_REGISTER, address: number | bigint): void {
    const wide = BigInt(address);
    this.write(QUEUE_REGISTER[part], Number(wide & 0xffff_ffffn));
    this.write(QUEUE_REGISTER[part] + 4, Number(wide >> 32n));
  }

  /** They are for writing only here. */
  queueRegisters(): number[] {
    return [];
  }

  enableQueue(): void {
    this.write(MMIO.queueReady, 1);
  }

  queueEnabled(): boolean {
    return this.read(MMIO.queueReady) === 1;
  }

  notify(queue: number): void {
    this.write(MMIO.queueNotify, queue);
  }

  interrupts(): { queues: boolean; config: boolean } {
    this.#machine.settle();
    if (this.#irq.edges === this.#seen) return { queues: false, config: false };
    this.#seen = this.#irq.edges;
    const status = this.read(MMIO.interruptStatus);
    this.write(MMIO.interruptAck, status);
    return { queues: (status & 1) !== 0, config: (status & 2) !== 0 };
  }

  readConfig(offset: number, size: 1 | 2 | 4): number {
    return this.read(MMIO.config + offset, size);
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.write(MMIO.config + offset, value, size);
  }

  generation(): number {
    return this.read(MMIO.configGeneration);
  }

  leftovers(): number[] {
    // The selectors cannot be read; what they select can.
    return [this.read(MMIO.interruptStatus)];
  }

  misuse(): void {
    this.write(MMIO.status, 0, 1);
    this.write(MMIO.status, 0, 2);
    this.write(MMIO.status + 2, 0, 2);
    this.write(MMIO.queueSel, 0xff, 1);
    this.write(MMIO.magic, 0);
    this.write(MMIO.queueNumMax, 0xffff_ffff);
    this.write(0xf0, 0xffff_ffff);
  }
}
