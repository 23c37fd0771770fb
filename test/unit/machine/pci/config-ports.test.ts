import { beforeEach, describe, expect, it } from 'vitest';

import { PCI_ECAM } from '../../../../src/boot/layout.ts';
import { PciConfigPorts } from '../../../../src/machine/pci/config-ports.ts';
import { ResetControl } from '../../../../src/machine/power/reset-control.ts';
import { FakeBus } from '../../../support/fake-bus.ts';

const [ADDRESS, RESET, DATA] = [0xcf8, 0xcf9, 0xcfc] as const;

let bus: FakeBus;
let resets: number;
let ports: PciConfigPorts;

/** A page of ECAM at 00:03.0 as a function has it, nothing elsewhere. */
const addDevice = (): void => {
  const handle = bus.add({
    name: 'device',
    space: 'mmio',
    base: PCI_ECAM.base + 3 * 8 * 0x1000,
    size: 0x1000,
    reads: 'shadow',
    writes: 'trap',
    write: (offset, size, value) => {
      for (let i = 0; i < size; i++) handle.shadow[offset + i] = value >>> (8 * i);
    },
  });
  handle.shadow.set([0xf4, 0x1a, 0x41, 0x10]);
};

const build = (...devices: readonly (() => void)[]): void => {
  bus = new FakeBus();
  resets = 0;
  const resetControl = new ResetControl(() => resets++);
  ports = new PciConfigPorts({ bus, resetControl });
  for (const add of devices) add();
};

beforeEach(() => build());

const select = (address: number): void => bus.write('pio', ADDRESS, 4, address);

describe('configuration address', () => {
  it('is latched by dwords, without its reserved bits', () => {
    select(0xffff_ffff);
    expect(bus.read('pio', ADDRESS, 4)).toBe(0x80ff_fffc);
  });

  it('is not changed by narrower writes, and reads as all ones by them', () => {
    select(0x8000_1800);
    bus.write('pio', ADDRESS, 1, 0x55);
    bus.write('pio', ADDRESS, 2, 0x5555);
    bus.write('pio', 0xcfb, 1, 0x01);
    expect(bus.read('pio', ADDRESS, 4)).toBe(0x8000_1800);
    expect([bus.read('pio', ADDRESS, 1), bus.read('pio', 0xcfa, 2)]).toEqual([0xff, 0xffff]);
    expect(resets).toBe(0);
  });

  it('passes Linux’s test for mechanism 1', () => {
    bus.write('pio', 0xcfb, 1, 0x01);
    const before = bus.read('pio', ADDRESS, 4);
    select(0x8000_0000);
    expect(bus.read('pio', ADDRESS, 4)).toBe(0x8000_0000);
    select(before);
    expect(bus.read('pio', ADDRESS, 4)).toBe(before);
  });
});

describe('configuration data', () => {
  it('is all ones without devices, and costs no wait', () => {
    select(0x8000_1800);
    bus.write('pio', DATA, 4, 0);
    expect([bus.read('pio', DATA, 4), bus.read('pio', 0xcfe, 2), bus.read('pio', 0xcff, 1)]).toEqual([
      0xffff_ffff, 0xffff, 0xff,
    ]);
    expect(bus.waits).toBe(0);
  });

  it('comes from the configuration space at any width', () => {
    build(addDevice);
    select(0x8000_1800);
    expect(bus.read('pio', DATA, 4)).toBe(0x1041_1af4);
    expect(bus.read('pio', 0xcfe, 2)).toBe(0x1041);
    expect(bus.read('pio', 0xcfd, 1)).toBe(0x1a);
  });

  it('takes no wait to read, as little as in ECAM', () => {
    build(addDevice);
    select(0x8000_1800);
    bus.read('pio', DATA, 4);
    expect(bus.waits).toBe(0);
  });

  it('is written at once', () => {
    build(addDevice);
    select(0x8000_183c);
    bus.write('pio', 0xcfd, 1, 0x07);
    expect(bus.read('pio', DATA, 4)).toBe(0x0000_0700);
  });

  it('is all ones where no device is, and while the enable bit is off', () => {
    build(addDevice);
    for (const elsewhere of [0x8000_2000, 0x8000_1900, 0x8001_1800, 0x80ff_1800]) {
      select(elsewhere);
      expect(bus.read('pio', DATA, 4)).toBe(0xffff_ffff);
      bus.write('pio', DATA, 4, 0);
    }
    select(0x0000_1800);
    bus.write('pio', DATA, 4, 0);
    expect(bus.read('pio', DATA, 4)).toBe(0xffff_ffff);
    select(0x8000_1800);
    expect(bus.read('pio', DATA, 4)).toBe(0x1041_1af4);
  });
});

describe('reset control', () => {
  const control = (value: number): void => {
    bus.write('pio', RESET, 1, value);
    bus.drain();
  };

  it('resets on ACPI’s reset value', () => {
    control(0x06);
    expect(resets).toBe(1);
  });

  it('resets when bit 2 goes on, not while it stays on', () => {
    control(0x02);
    expect(resets).toBe(0);
    control(0x06);
    control(0x0e);
    expect(resets).toBe(1);
    control(0x02);
    control(0x04);
    expect(resets).toBe(2);
  });

  it('reads back bits 1 to 3 and leaves the address alone', () => {
    select(0x8000_1800);
    control(0xfb);
    expect(bus.read('pio', RESET, 1)).toBe(0x0a);
    expect(bus.read('pio', ADDRESS, 4)).toBe(0x8000_1800);
  });
});

describe('save and restore', () => {
  it('carry the address over between its write and the data', () => {
    build(addDevice);
    select(0x8000_1800);
    bus.drain();
    const state: unknown = JSON.parse(JSON.stringify(ports.save()));
    build(addDevice);
    ports.restore(state);
    expect(ports.save()).toEqual(state);
    expect(bus.read('pio', DATA, 4)).toBe(0x1041_1af4);
  });

  it('forget it on a reset', () => {
    select(0x8000_1800);
    bus.drain();
    ports.reset();
    expect(bus.read('pio', ADDRESS, 4)).toBe(0);
  });

  it.each([{ address: 2 ** 32 }, { address: -1 }, {}, null])('refuse %j', (data) => {
    expect(() => ports.restore(data)).toThrow('state of pci-config-ports');
  });
});
