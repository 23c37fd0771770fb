import * as v from 'valibot';
import type { Bus, IrqLine } from '../../kvm/bus.ts';
import type { MessageSource } from '../../kvm/notify.ts';
import { PCI_ECAM, PCI_MMIO32, type MemoryRange } from '../../boot/layout.ts';
import type { PciFunction } from '../../virtio/pci-function.ts';
import type { PciInterrupt } from '../acpi/config.ts';
import { checkState, DeviceStateError } from '../../kvm/device-state.ts';
import { SharedLine } from '../shared-line.ts';
import { hostBridge } from './host-bridge.ts';
import { ECAM_FUNCTION_SIZE } from './registers.ts';
import { FunctionSlot } from './slot.ts';

/** Devices on a bus; each has function 0 alone here. */
const DEVICES = 32;
const FUNCTIONS = 8;

export type PciRootBusOptions = {
  readonly bus: Bus;
  readonly messages: MessageSource;
  /** the lines that INTA# of the devices go to in turn, at least one */
  readonly interrupts: readonly { readonly gsi: number; readonly line: IrqLine }[];
  /** a window for BARs above 4 GiB, as ACPI announces it */
  readonly mmio64?: MemoryRange;
};

const schema = v.strictObject({
  devices: v.array(v.strictObject({ device: v.number(), state: v.unknown() })),
});

/**
 * PCI bus 0 with its host bridge. Each function has its page of ECAM; absent ones read as all ones, as anything
 * does that nobody claims. The configuration ports lead there as well.
 */
export class PciRootBus {
  readonly #options: PciRootBusOptions;
  readonly #lines: readonly SharedLine[];
  readonly #windows: readonly MemoryRange[];
  readonly #slots = new Map<number, FunctionSlot>();
  /** first address in the 32-bit window that no BAR was given */
  #free: number = PCI_MMIO32.base;

  constructor(options: PciRootBusOptions) {
    if (options.interrupts.length === 0) throw new RangeError('PCI devices need an interrupt line');
    this.#options = options;
    this.#lines = options.interrupts.map(({ line }) => new SharedLine(line));
    this.#windows = [PCI_MMIO32, ...(options.mmio64 ? [options.mmio64] : [])];
    this.add(hostBridge(), 0);
  }

  /**
   * Adds a function, with addresses for its BARs as firmware would assign them; returns its device number.
   * @param device default the first that is free
   * @throws RangeError where there is no room
   */
  add(fn: PciFunction, device = this.#firstFree()): number {
    if (device >= DEVICES || this.#slots.has(device)) throw new RangeError(`no PCI slot for ${fn.name}`);
    const addresses = new Map<number, number>();
    for (const { index, size } of fn.bars) {
      const address = Math.ceil(this.#free / size) * size;
      if (address + size > PCI_MMIO32.base + PCI_MMIO32.size)
        throw new RangeError(`no room for BARs of ${fn.name}`);
      addresses.set(index, address);
      this.#free = address + size;
    }
    const line = this.#lines[device % this.#lines.length]!;
    const slot = new FunctionSlot({
      bus: this.#options.bus,
      ecam: PCI_ECAM.base + device * FUNCTIONS * ECAM_FUNCTION_SIZE,
      function: fn,
      windows: this.#windows,
      addresses,
      messages: this.#options.messages,
      irq: line.source(),
    });
    this.#slots.set(device, slot);
    return device;
  }

  /** Where each device's INTA# goes, for ACPI's routing table. */
  get interrupts(): PciInterrupt[] {
    const { interrupts } = this.#options;
    return [...this.#slots]
      .filter(([, slot]) => slot.function.interruptPin)
      .map(([device]) => ({ device, pin: 0, gsi: interrupts[device % interrupts.length]!.gsi }));
  }

  /** As RST#; resolves once no function touches guest memory any more. */
  async reset(): Promise<void> {
    await Promise.all([...this.#slots.values()].map((slot) => slot.reset()));
  }

  async pause(): Promise<void> {
    await Promise.all([...this.#slots.values()].map((slot) => slot.function.pause()));
  }

  resume(): void {
    for (const slot of this.#slots.values()) slot.function.resume();
  }

  /** Plain data. Only while paused. */
  save(): unknown {
    return { devices: [...this.#slots].map(([device, slot]) => ({ device, state: slot.save() })) };
  }

  /** Restores into a bus with the same functions. @throws DeviceStateError or StateError */
  restore(data: unknown): void {
    const { devices } = checkState('pci', schema, data);
    const present = [...this.#slots.keys()].join();
    if (devices.map(({ device }) => device).join() !== present)
      throw new DeviceStateError(`state of pci: devices other than ${present}`);
    for (const { device, state } of devices) this.#slots.get(device)?.restore(state);
  }

  close(): void {
    for (const slot of this.#slots.values()) slot.close();
    this.#slots.clear();
  }

  #firstFree(): number {
    let device = 0;
    while (this.#slots.has(device)) device++;
    return device;
  }
}
