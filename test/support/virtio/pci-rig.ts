import type { MemoryRange } from '../../../src/boot/layout.ts';
import { PciRootBus } from '../../../src/machine/pci/root-bus.ts';
import type { VirtioDevice } from '../../../src/virtio/device.ts';
import type { PciSlot } from '../../../src/virtio/pci-function.ts';
import { PciTransport } from '../../../src/virtio/pci-transport.ts';
import { FakeIrq } from '../fake-bus.ts';
import { FakeMachine } from './machine.ts';
import { PciHandle } from './pci-driver.ts';

/** A PCI bus with virtio functions from device 1 on, and a vCPU's view of each. */
export class PciRig {
  readonly machine = new FakeMachine('one window');
  readonly lines = [new FakeIrq(), new FakeIrq()] as const;
  readonly root: PciRootBus;
  readonly transports: PciTransport[];
  /** the board's side of each function */
  readonly slots: PciSlot[] = [];

  constructor(devices: readonly VirtioDevice[], mmio64?: MemoryRange) {
    const { bus, messages, memory, notifier, defer, report } = this.machine;
    this.root = new PciRootBus({
      bus,
      messages,
      interrupts: this.lines.map((line, i) => ({ gsi: 16 + i, line })),
      ...(mmio64 && { mmio64 }),
    });
    this.transports = devices.map((device) => new PciTransport({ device, memory, notifier, defer, report }));
    for (const transport of this.transports) {
      const attach = transport.attach.bind(transport);
      transport.attach = (slot) => {
        this.slots.push(slot);
        attach(slot);
      };
      this.root.add(transport);
    }
  }

  handle(device: number): PciHandle {
    return new PciHandle(this.machine, device);
  }
}
