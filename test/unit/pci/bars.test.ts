import { describe, expect, test } from 'vitest';
import { PCI_ECAM, PCI_MMIO32 } from '../../../src/boot/layout.ts';
import { FunctionSlot } from '../../../src/machine/pci/slot.ts';
import type { PciFunction } from '../../../src/virtio/pci-function.ts';
import { RegisterImage } from '../../../src/virtio/register-image.ts';
import { FakeIrq } from '../../support/fake-bus.ts';
import { EchoDevice } from '../../support/virtio/devices.ts';
import { FakeMachine } from '../../support/virtio/machine.ts';
import { PciHandle } from '../../support/virtio/pci-driver.ts';
import { PciRig } from '../../support/virtio/pci-rig.ts';
import { Rig } from '../../support/virtio/rig.ts';

const MMIO64 = { base: 0x40_0000_0000, size: 0x1_0000_0000 } as const;
/** reads 2 at the start of the BAR's common structure: the number of queues */
const QUEUES = 18;

const withFunction = (): { rig: PciRig; fn: PciHandle } => {
  const rig = new PciRig([new EchoDevice(), new EchoDevice()], MMIO64);
  return { rig, fn: rig.handle(1) };
};

describe('a 64-bit BAR', () => {
  test('has an address in the window from the start, as from firmware, and is off', () => {
    const { rig, fn } = withFunction();
    expect(fn.bar(0)).toBeGreaterThanOrEqual(PCI_MMIO32.base);
    expect(fn.bar(0) + 0x8000).toBeLessThanOrEqual(PCI_MMIO32.base + PCI_MMIO32.size);
    expect(fn.bar(0) % 0x8000).toBe(0);
    expect(rig.handle(2).bar(0)).not.toBe(fn.bar(0));
    expect(rig.machine.read('mmio', fn.bar(0) + QUEUES, 2)).toBe(0xffff);
  });

  test('tells its size and type, as Linux asks', () => {
    const { fn } = withFunction();
    const before = [fn.read(0x10, 4), fn.read(0x14, 4)] as const;
    fn.write(0x10, 4, 0xffff_ffff);
    expect(fn.read(0x10, 4)).toBe(0xffff_8004);
    fn.write(0x14, 4, 0xffff_ffff);
    expect(fn.read(0x14, 4)).toBe(0xffff_ffff);
    fn.write(0x10, 4, before[0]);
    fn.write(0x14, 4, before[1]);
    expect([fn.read(0x10, 4), fn.read(0x14, 4)]).toEqual(before);
    // no other BARs, no ROM
    for (const at of [0x18, 0x1c, 0x20, 0x24, 0x30]) {
      fn.write(at, 4, 0xffff_ffff);
      expect(fn.read(at, 4)).toBe(0);
    }
  });

  test('answers while memory decode is on', () => {
    const { rig, fn } = withFunction();
    fn.enable();
    expect(rig.machine.read('mmio', fn.bar(0) + QUEUES, 2)).toBe(2);
    fn.write(4, 2, 0);
    expect(rig.machine.read('mmio', fn.bar(0) + QUEUES, 2)).toBe(0xffff);
  });

  test.each([PCI_MMIO32.base + 0x100_0000, MMIO64.base + 0x8000, PCI_MMIO32.base + PCI_MMIO32.size - 0x8000])(
    'moves to 0x%x, decode on or off',
    (address) => {
      for (const decode of [false, true]) {
        const { rig, fn } = withFunction();
        const old = fn.bar(0);
        if (decode) fn.enable();
        fn.write(0x10, 4, address % 2 ** 32);
        fn.write(0x14, 4, Math.floor(address / 2 ** 32));
        fn.enable();
        expect(fn.bar(0)).toBe(address);
        expect(rig.machine.read('mmio', address + QUEUES, 2)).toBe(2);
        expect(rig.machine.read('mmio', old + QUEUES, 2)).toBe(0xffff);
      }
    },
  );

  test.each([
    ['RAM', 0x1000_0000],
    ['ECAM', PCI_ECAM.base],
    ['the end of the window', PCI_MMIO32.base + PCI_MMIO32.size],
    ['nowhere', 0],
    ['the IOAPIC', 0xfec0_0000],
    ['past 2^53', 2 ** 60],
  ])('over %s is not there', (_, address) => {
    const { rig, fn } = withFunction();
    fn.enable();
    fn.write(0x10, 4, address % 2 ** 32);
    fn.write(0x14, 4, Math.floor(address / 2 ** 32));
    expect(rig.machine.read('mmio', address + QUEUES, 2)).not.toBe(2);
  });

  test('over another BAR is not there, until that one is gone', () => {
    const { rig, fn } = withFunction();
    const other = rig.handle(2);
    fn.enable();
    other.enable();
    other.write(0x10, 4, fn.bar(0));
    expect(rig.machine.read('mmio', fn.bar(0) + QUEUES, 2)).toBe(2);
    fn.write(4, 2, 0);
    expect(rig.machine.read('mmio', fn.bar(0) + QUEUES, 2)).toBe(0xffff);
    // a new look at its command register
    other.enable();
    expect(rig.machine.read('mmio', fn.bar(0) + QUEUES, 2)).toBe(2);
  });

  test('takes its queues along: notifications and registers are at the new place alone', () => {
    const rig = new Rig(new EchoDevice(), { transport: 'pci', memory: 'one window' });
    rig.start();
    const fn = new PciHandle(rig.machine, 1);
    const old = fn.bar(0);
    const address = PCI_MMIO32.base + 0x80_0000;
    fn.write(0x10, 4, address);
    expect(rig.machine.read('mmio', address + 20, 1)).toBe(0x0f);
    const attached = [...rig.machine.notifier.attached].map(({ at }) => at.address);
    expect(attached).toEqual([address + 0x4000, address + 0x4004]);
    const queue = rig.queue(0);
    queue.chain(queue.place([{ bytes: Uint8Array.of(1) }]));
    queue.publish();
    rig.machine.write('mmio', old + 0x4000, 2, 0);
    rig.machine.settle();
    expect(queue.hasUsed).toBe(false);
    rig.machine.write('mmio', address + 0x4000, 2, 0);
    rig.machine.settle();
    expect(queue.hasUsed).toBe(true);
  });

  test('without decode leaves no ioeventfd behind', () => {
    const rig = new Rig(new EchoDevice(), { transport: 'pci', memory: 'one window' });
    rig.start();
    new PciHandle(rig.machine, 1).write(4, 2, 0);
    expect(rig.machine.notifier.attached.size).toBe(0);
    new PciHandle(rig.machine, 1).enable();
    expect(rig.machine.notifier.attached.size).toBe(2);
  });
});

describe('a 32-bit BAR', () => {
  const slot = (): { machine: FakeMachine; fn: PciHandle } => {
    const machine = new FakeMachine('one window');
    const image = new RegisterImage(16);
    image.set32(0, 0x1234_5678);
    const fn: PciFunction = {
      name: 'narrow',
      identity: { vendor: 1, device: 2, revision: 0, classCode: 0, subsystemVendor: 0, subsystem: 0 },
      bars: [
        {
          index: 2,
          width: 32,
          size: 0x1000,
          regions: [{ name: 'narrow', offset: 0, image, reads: 'shadow', writes: 'ignore' }],
        },
      ],
      capabilities: [],
      interruptPin: false,
      attach: () => undefined,
      reset: () => Promise.resolve(),
      pause: () => Promise.resolve(),
      resume: () => undefined,
      save: () => null,
      restore: () => undefined,
    };
    new FunctionSlot({
      bus: machine.bus,
      ecam: PCI_ECAM.base,
      function: fn,
      windows: [PCI_MMIO32],
      addresses: new Map([[2, PCI_MMIO32.base]]),
      messages: machine.messages,
      irq: new FakeIrq(),
    });
    return { machine, fn: new PciHandle(machine, 0) };
  };

  test('tells its size and type', () => {
    const { fn } = slot();
    fn.write(0x18, 4, 0xffff_ffff);
    expect(fn.read(0x18, 4)).toBe(0xffff_f000);
    fn.write(0x1c, 4, 0xffff_ffff);
    expect(fn.read(0x1c, 4)).toBe(0);
  });

  test('is placed and moved', () => {
    const { machine, fn } = slot();
    fn.enable();
    expect(machine.read('mmio', PCI_MMIO32.base, 4)).toBe(0x1234_5678);
    fn.write(0x18, 4, PCI_MMIO32.base + 0x5000);
    expect(machine.read('mmio', PCI_MMIO32.base, 4)).toBe(0xffff_ffff);
    expect(machine.read('mmio', PCI_MMIO32.base + 0x5000, 4)).toBe(0x1234_5678);
  });

  test('is written by bytes as well', () => {
    const { machine, fn } = slot();
    fn.enable();
    fn.write(0x1a, 1, 0x20);
    expect(fn.read(0x18, 4)).toBe(0xc020_0000);
    expect(machine.read('mmio', 0xc020_0000, 4)).toBe(0x1234_5678);
  });
});
