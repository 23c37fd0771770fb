import * as v from 'valibot';
import { FREE_ISA_GSIS, PCI_GSIS, VIRTIO_MMIO, VIRTIO_MMIO_GSIS } from '../boot/layout.ts';
import { checkState, DeviceStateError } from '../kvm/device-state.ts';
import type { GuestMemory } from '../kvm/guest-memory.ts';
import { KvmMessages, KvmNotifier } from '../kvm/notify.ts';
import type { KvmVm } from '../kvm/vm.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import { MmioTransport } from '../virtio/mmio-transport.ts';
import { PciTransport } from '../virtio/pci-transport.ts';
import type { AcpiConfig } from './acpi/config.ts';
import { PciRootBus } from './pci/root-bus.ts';

/**
 * How the guest reaches its virtio devices:
 * - `pci`: functions of PCI bus 0, with MSI-X
 * - `mmio`: memory-mapped registers, found through ACPI
 * - `mmio-cmdline`: the same, named on the kernel's command line alone, for kernels without ACPI
 */
export type VirtioTransport = 'pci' | 'mmio' | 'mmio-cmdline';

export type VirtioBusOptions = {
  readonly vm: KvmVm;
  readonly memory: GuestMemory;
  readonly transport: VirtioTransport;
  /** in the order in which the guest finds them */
  readonly devices: readonly VirtioDevice[];
  /** takes lines for the log */
  readonly report: (message: string) => void;
};

const PAGE = 0x1000;
const schema = v.strictObject({ pci: v.optional(v.unknown()), mmio: v.array(v.unknown()) });

/** The virtio devices of a board behind their transports, and what the guest's tables say of them. */
export class VirtioBus {
  readonly acpi: Pick<AcpiConfig, 'virtioMmio' | 'pciInterrupts'>;
  /** for the end of the kernel's command line */
  readonly kernelParameters: readonly string[];
  readonly #transports: readonly (MmioTransport | PciTransport)[];
  readonly #mmio: readonly MmioTransport[];
  readonly #pci: PciRootBus | undefined;

  /** @throws RangeError where the transport has no room for so many devices */
  constructor({ vm, memory, transport, devices, report }: VirtioBusOptions) {
    const common = { memory, notifier: new KvmNotifier(vm), report };
    if (transport === 'pci') {
      const functions = devices.map((device) => new PciTransport({ ...common, device }));
      this.#transports = functions;
      this.#mmio = [];
      this.kernelParameters = [];
      if (functions.length === 0) {
        this.acpi = {};
        return;
      }
      const pci = new PciRootBus({
        bus: vm,
        messages: new KvmMessages(vm),
        interrupts: PCI_GSIS.map((gsi) => ({ gsi, line: vm.irqLine(gsi) })),
      });
      for (const fn of functions) pci.add(fn);
      this.#pci = pci;
      this.acpi = { pciInterrupts: pci.interrupts };
      return;
    }
    const inAcpi = transport === 'mmio';
    const gsis = inAcpi ? VIRTIO_MMIO_GSIS : FREE_ISA_GSIS;
    if (devices.length > gsis.length) {
      throw new RangeError(
        `${devices.length} devices over ${transport}, which has ${gsis.length} interrupt lines; use the transport pci`,
      );
    }
    const slots = devices.map((device, index) => {
      const gsi = gsis[index]!;
      const base = VIRTIO_MMIO.base + index * PAGE;
      return new MmioTransport({ ...common, device, bus: vm, base, gsi, irq: vm.edgeLine(gsi) });
    });
    this.#mmio = slots;
    this.#transports = slots;
    this.acpi = inAcpi ? { virtioMmio: slots.map(({ mmioConfig }) => mmioConfig) } : {};
    this.kernelParameters = inAcpi ? [] : slots.map((slot) => slot.kernelParameter);
  }

  /** Resolves when no device has I/O in flight or takes a request. */
  async pause(): Promise<void> {
    await Promise.all(this.#transports.map(({ core }) => core.pause()));
  }

  resume(): void {
    for (const { core } of this.#transports) core.resume();
  }

  /** Plain data. Only while paused. */
  save(): unknown {
    return { ...(this.#pci && { pci: this.#pci.save() }), mmio: this.#mmio.map((slot) => slot.save()) };
  }

  /** Into a bus with the same devices. @throws DeviceStateError */
  restore(data: unknown): void {
    const state = checkState('virtio', schema, data);
    if ((state.pci === undefined) !== (this.#pci === undefined) || state.mmio.length !== this.#mmio.length) {
      throw new DeviceStateError('state of virtio: another transport, or other devices');
    }
    if (state.pci !== undefined) this.#pci?.restore(state.pci);
    this.#mmio.forEach((slot, index) => slot.restore(state.mmio[index]));
  }

  /** Ends all devices and waits for their I/O, so that guest memory can go. The VM is closed already. */
  close(): void {
    for (const { core } of this.#transports) {
      void core.reset();
      core.device.quiesce?.();
      core.device.close?.();
    }
    this.#pci?.close();
  }
}
