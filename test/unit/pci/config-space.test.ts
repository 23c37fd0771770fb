import { describe, expect, test } from 'vitest';
import { PCI_ECAM } from '../../../src/boot/layout.ts';
import { PciConfigPorts } from '../../../src/machine/pci/config-ports.ts';
import { EchoDevice, FieldsDevice } from '../../support/virtio/devices.ts';
import { PciRig } from '../../support/virtio/pci-rig.ts';

const rigOf = (...devices: ConstructorParameters<typeof PciRig>[0]): PciRig => new PciRig(devices);

describe('the bus', () => {
  test('has a host bridge at 00:00.0', () => {
    const bridge = rigOf().handle(0);
    expect([bridge.read(0, 4), bridge.read(8, 4), bridge.read(0x0e, 1)]).toEqual([
      0x0008_1b36, 0x0600_0000, 0,
    ]);
    // no capabilities, BARs or interrupt pin
    expect([bridge.read(0x34, 1), bridge.read(0x10, 4), bridge.read(0x3d, 1)]).toEqual([0, 0, 0]);
  });

  test('reads all ones where no function is', () => {
    const { machine } = rigOf(new EchoDevice());
    const at = (bus: number, device: number, fn: number): number =>
      machine.read('mmio', PCI_ECAM.base + bus * 0x10_0000 + device * 0x8000 + fn * 0x1000, 4);
    expect([at(0, 2, 0), at(0, 31, 0), at(0, 1, 1), at(1, 0, 0), at(255, 31, 7)]).toEqual(
      Array(5).fill(0xffff_ffff),
    );
  });

  test('has room for 32 devices', () => {
    expect(() => rigOf(...Array.from({ length: 31 }, () => new EchoDevice()))).not.toThrow();
    expect(() => rigOf(...Array.from({ length: 32 }, () => new EchoDevice()))).toThrow(RangeError);
  });

  test('gives each device an interrupt line in turn, which ACPI is told', () => {
    expect(rigOf(new EchoDevice(), new EchoDevice(), new EchoDevice()).root.interrupts).toEqual([
      { device: 1, pin: 0, gsi: 17 },
      { device: 2, pin: 0, gsi: 16 },
      { device: 3, pin: 0, gsi: 17 },
    ]);
  });
});

describe('a virtio function', () => {
  test('shows the ids of a modern device', () => {
    const fn = rigOf(new EchoDevice()).handle(1);
    expect([fn.read(0, 2), fn.read(2, 2), fn.read(8, 1)]).toEqual([0x1af4, 0x1040 + 42, 1]);
    expect([fn.read(0x2c, 2), fn.read(0x2e, 2)]).toEqual([0x1af4, 0x40 + 42]);
  });

  test('shows the class that the device names, or none', () => {
    const disk = Object.assign(new EchoDevice(), { pciClass: 0x018000 });
    const rig = rigOf(disk, new EchoDevice());
    expect([rig.handle(1).read(8, 4), rig.handle(2).read(8, 4)]).toEqual([0x0180_0001, 0x00ff_0001]);
  });

  test('has a list of capabilities: MSI-X, and those of virtio, the device structure only with fields', () => {
    const types = (fn: ReturnType<PciRig['handle']>): number[] =>
      fn.capabilities(0x09).map((at) => fn.read(at + 3, 1));
    const rig = rigOf(new EchoDevice(), new FieldsDevice());
    expect(rig.handle(1).read(6, 2) & 0x10).toBe(0x10);
    expect(types(rig.handle(1))).toEqual([1, 2, 3, 5]);
    expect(types(rig.handle(2))).toEqual([1, 2, 3, 4, 5]);
    expect(rig.handle(1).capabilities(0x11)).toHaveLength(1);
  });

  test('has structures that lie in its BAR and not over each other', () => {
    const fn = rigOf(new FieldsDevice()).handle(1);
    const places = fn
      .capabilities(0x09)
      .filter((at) => fn.read(at + 3, 1) !== 5)
      .map((at) => ({ from: fn.read(at + 8, 4), to: fn.read(at + 8, 4) + fn.read(at + 12, 4) }));
    const msix = fn.capabilities(0x11)[0]!;
    const vectors = (fn.read(msix + 2, 2) & 0x7ff) + 1;
    places.push({ from: fn.read(msix + 4, 4), to: fn.read(msix + 4, 4) + 16 * vectors });
    places.push({ from: fn.read(msix + 8, 4), to: fn.read(msix + 8, 4) + 8 });
    places.sort((a, b) => a.from - b.from);
    places.forEach(({ to }, i) => expect(to).toBeLessThanOrEqual(places[i + 1]?.from ?? 0x8000));
  });

  test('has registers that can be written, and only these', () => {
    const fn = rigOf(new EchoDevice()).handle(1);
    const before = Array.from({ length: 64 }, (_, i) => fn.read(4 * i, 4));
    for (let at = 0; at < 256; at += 4) fn.write(at, 4, 0xffff_ffff);
    const changed = before.map((value, i) => (fn.read(4 * i, 4) ^ value) >>> 0);
    expect(changed[0]).toBe(0);
    // command: memory, bus master, parity, SERR, INTx disable; status has nothing to write
    expect(changed[1]).toBe(0x0546);
    expect(changed[2]).toBe(0);
    expect(changed[3]).toBe(0xff);
    expect(changed.slice(11, 14)).toEqual([0, 0, 0]);
    expect(changed[15]).toBe(0xff);
  });

  test('has an empty extended configuration space', () => {
    const fn = rigOf(new EchoDevice()).handle(1);
    fn.write(0x100, 4, 0xffff_ffff);
    expect([fn.read(0x100, 4), fn.read(0xffc, 4)]).toEqual([0, 0]);
  });

  test('makes no vCPU wait for reads of its configuration space', () => {
    const rig = rigOf(new EchoDevice());
    const fn = rig.handle(1);
    for (let at = 0; at < 0x40; at += 4) fn.read(at, 4);
    fn.capabilities(0x09);
    expect(rig.machine.bus.waits).toBe(0);
  });
});

describe('the configuration ports', () => {
  test('reach the same functions', () => {
    const rig = rigOf(new EchoDevice());
    const { machine } = rig;
    new PciConfigPorts({ bus: machine.bus, resetControl: { read: () => 0, write: () => undefined } });
    const select = (address: number): void => machine.write('pio', 0xcf8, 4, 0x8000_0000 + address);
    select(1 << 11);
    expect(machine.read('pio', 0xcfc, 4)).toBe(0x106a_1af4);
    select((1 << 11) | 0x3c);
    machine.write('pio', 0xcfc, 1, 0x5a);
    expect(rig.handle(1).read(0x3c, 1)).toBe(0x5a);
    select(2 << 11);
    expect(machine.read('pio', 0xcfe, 2)).toBe(0xffff);
    select((1 << 11) | (1 << 8));
    expect(machine.read('pio', 0xcfc, 1)).toBe(0xff);
    select(1 << 16);
    expect(machine.read('pio', 0xcfc, 4)).toBe(0xffff_ffff);
  });
});

describe('access to the BAR through configuration space', () => {
  type Handle = ReturnType<PciRig['handle']>;
  const capability = (fn: Handle): number => fn.capabilities(0x09).find((at) => fn.read(at + 3, 1) === 5)!;
  const aim = (fn: Handle, bar: number, offset: number, length: number): number => {
    const at = capability(fn);
    fn.write(at + 4, 1, bar);
    fn.write(at + 8, 4, offset);
    fn.write(at + 12, 4, length);
    return at + 16;
  };
  const commonOffset = 0;

  test('reads and writes registers whether memory decode is on or not', () => {
    const fn = rigOf(new EchoDevice()).handle(1);
    const data = aim(fn, 0, commonOffset + 20, 1);
    expect(fn.read(data, 1)).toBe(0);
    fn.write(data, 1, 1);
    expect(fn.read(data, 1)).toBe(1);
    aim(fn, 0, commonOffset + 18, 2);
    expect(fn.read(data, 2)).toBe(2);
  });

  test('notifies queues', () => {
    const device = new EchoDevice();
    const rig = rigOf(device);
    const fn = rig.handle(1);
    const status = aim(fn, 0, 20, 1);
    fn.write(status, 1, 1);
    fn.write(status, 1, 3);
    expect(fn.read(status, 1)).toBe(3);
    const data = aim(fn, 0, 0x4000, 2);
    fn.write(data, 2, 0);
    // before DRIVER_OK that has no effect
    expect(device.notifications).toBe(0);
  });

  test.each([
    ['no BAR', 1, 0, 4],
    ['an offset past the BAR', 0, 0x8000, 4],
    ['an offset where nothing is', 0, 0x0f00, 4],
    ['an offset at the end of 32 bits', 0, 0xffff_fffc, 4],
  ])('to %s reads all ones and writes nothing', (_, bar, offset, length) => {
    const fn = rigOf(new EchoDevice()).handle(1);
    const data = aim(fn, bar, offset, length);
    fn.write(data, 4, 5);
    expect(fn.read(data, 4)).toBe(0xffff_ffff);
  });

  test.each([
    [20, 3],
    [20, 0],
    [21, 2],
    [20, 0x8000_0000],
  ])('at offset %i with length %i, which is not allowed, reads 0', (offset, length) => {
    const fn = rigOf(new EchoDevice()).handle(1);
    expect(fn.read(aim(fn, 0, offset, length), 4)).toBe(0);
  });
});
