import { describe, expect, test } from 'vitest';
import { MmioTransport, addEmptyMmioSlot } from '../../../src/virtio/mmio-transport.ts';
import { FakeIrq } from '../../support/fake-bus.ts';
import { EchoDevice, FieldsDevice } from '../../support/virtio/devices.ts';
import { FakeMachine } from '../../support/virtio/machine.ts';
import { MmioDriver } from '../../support/virtio/mmio-driver.ts';
import { Rig } from '../../support/virtio/rig.ts';

const BASE = 0xfeb0_0000;
const driverOf = (rig: Rig): MmioDriver => new MmioDriver(rig.machine, BASE, rig.irq);
const mmio = { transport: 'mmio', memory: 'one window' } as const;

describe('registers', () => {
  const driver = (): MmioDriver => driverOf(new Rig(new FieldsDevice(), mmio));

  test('name the device: magic "virt", version 2, its id', () => {
    const one = driver();
    expect([0, 4, 8].map((at) => one.read(at))).toEqual([0x7472_6976, 2, 43]);
  });

  test('that are for writing, or are not there, read as 0', () => {
    const one = driver();
    for (const at of [
      0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x38, 0x3c, 0x40, 0x50, 0x64, 0x80, 0xa4, 0xc0, 0xf8,
    ]) {
      expect(one.read(at)).toBe(0);
    }
  });

  test('of shared memory say that there is none', () => {
    const one = driver();
    expect([0xb0, 0xb4, 0xb8, 0xbc].map((at) => one.read(at))).toEqual(Array(4).fill(0xffff_ffff));
  });

  test('beyond the configuration space read as 0, and take no writes', () => {
    const one = driver();
    one.write(0xff0, 0xffff_ffff);
    expect(one.read(0xff0)).toBe(0);
  });

  test('of a slot without a device have id 0', () => {
    const machine = new FakeMachine('one window');
    addEmptyMmioSlot(machine.bus, BASE);
    const one = new MmioDriver(machine, BASE, new FakeIrq());
    expect([0, 4, 8, 0x70, 0x100].map((at) => one.read(at))).toEqual([0x7472_6976, 2, 0, 0, 0]);
    one.status = 1;
    expect(one.status).toBe(0);
  });
});

describe('a vCPU waits for JavaScript', () => {
  test('neither for a notification nor for an interrupt', () => {
    const rig = new Rig(new EchoDevice(), mmio);
    rig.start();
    rig.send(rig.queue(0), [{ bytes: Uint8Array.of(1) }]);
    rig.machine.settle();
    const { waits } = rig.machine.bus;
    const driver = driverOf(rig);
    driver.notify(0);
    expect(driver.read(0x60)).toBe(1);
    expect(rig.machine.bus.waits).toBe(waits);
    driver.write(0x64, 1);
    expect(driver.read(0x60)).toBe(0);
    expect(rig.machine.bus.waits).toBe(waits);
  });
});

describe('interrupts', () => {
  test('of both kinds are acknowledged one by one, each with an edge of its own', () => {
    const device = new FieldsDevice();
    const rig = new Rig(device, mmio);
    rig.start();
    const driver = driverOf(rig);
    rig.send(rig.queue(1), [{ bytes: Uint8Array.of(1) }]);
    rig.machine.settle();
    device.config.set({ capacity: 5 });
    expect(driver.read(0x60)).toBe(3);
    driver.write(0x64, 1);
    expect(driver.read(0x60)).toBe(2);
    driver.write(0x64, 2);
    expect([driver.read(0x60), rig.irq.edges]).toEqual([0, 2]);
  });

  test('that come between reading and acknowledging interrupt again', () => {
    const device = new FieldsDevice();
    const rig = new Rig(device, mmio);
    rig.start();
    const driver = driverOf(rig);
    device.config.set({ capacity: 5 });
    const status = driver.read(0x60);
    rig.send(rig.queue(1), [{ bytes: Uint8Array.of(1) }]);
    rig.machine.settle();
    driver.write(0x64, status);
    expect([driver.read(0x60), rig.irq.edges]).toEqual([1, 2]);
  });

  test('are acknowledged by words alone', () => {
    const device = new FieldsDevice();
    const rig = new Rig(device, mmio);
    rig.start();
    device.config.set({ capacity: 5 });
    const driver = driverOf(rig);
    driver.write(0x64, 2, 1);
    driver.write(0x64, 2, 2);
    expect(driver.read(0x60)).toBe(2);
  });
});

describe('the machine', () => {
  const transport = (machine = new FakeMachine('one window')): MmioTransport =>
    new MmioTransport({
      bus: machine.bus,
      memory: machine.memory,
      notifier: machine.notifier,
      device: new EchoDevice(),
      base: BASE,
      irq: new FakeIrq(),
      gsi: 12,
    });

  test('tells ACPI where the device is', () => {
    expect(transport().mmioConfig).toEqual({ base: BASE, size: 0x1000, gsi: 12 });
  });

  test('tells a kernel without ACPI on its command line', () => {
    expect(transport().kernelParameter).toBe('virtio_mmio.device=4K@0xfeb00000:12');
  });

  test('takes the device off the bus', async () => {
    const machine = new FakeMachine('one window');
    await transport(machine).close();
    expect(machine.read('mmio', BASE, 4)).toBe(0xffff_ffff);
  });
});

describe('reset', () => {
  test('is done when the write returns, for drivers that do not wait for it', () => {
    const rig = new Rig(new EchoDevice({ delay: 20 }), mmio);
    rig.start();
    rig.send(rig.queue(0), [{ bytes: Uint8Array.of(1) }, { room: 1 }]);
    rig.machine.settle();
    rig.driver.status = 0;
    expect(rig.driver.status).toBe(0);
  });
});
