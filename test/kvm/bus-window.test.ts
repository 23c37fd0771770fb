import { describe, expect, test } from 'vitest';
import type { BusRegion, IndexWindow } from '../../src/kvm/bus.ts';
import { runToHalt, tinyGuests } from '../support/tiny-guests.ts';
import { real } from '../support/x86.ts';

const PORT = 0x500;
/** where the guests leave what they read */
const OUT = 0x600;
const BASE = 0x70_0000;

const guest = tinyGuests();

type Log = (readonly [string, ...number[]])[];

/** A byte of index and a byte of data, as a clock chip has them. */
const bytes: IndexWindow = {
  index: { offset: 0, size: 1 },
  data: { offset: 1, size: 1 },
  space: 'indexed',
  base: BASE,
  address: [{ mask: 0x7f, shift: 0 }],
};

/** A dword of index and one of data, there while bit 31 is set; two fields of the index, one moved. */
const dwords: IndexWindow = {
  index: { offset: 0, size: 4 },
  data: { offset: 4, size: 4 },
  space: 'indexed',
  base: BASE,
  match: { mask: 0x80ff_0000, value: 0x8000_0000 },
  address: [
    { mask: 0xfc, shift: 0 },
    { mask: 0xff00, shift: 4 },
  ],
};

function ports(window: IndexWindow, log: Log, more: Partial<BusRegion> = {}): BusRegion {
  return {
    name: 'ports',
    space: 'pio',
    base: PORT,
    size: window.data.offset + window.data.size,
    reads: 'shadow',
    writes: 'posted',
    write: (offset, size, value) => void log.push(['port', offset, size, value]),
    window,
    ...more,
  };
}

function registers(log: Log, more: Partial<BusRegion> = {}): BusRegion {
  return {
    name: 'registers',
    space: 'indexed',
    base: BASE,
    size: 128,
    reads: 'shadow',
    writes: 'posted',
    read: (offset, size) => {
      log.push(['read', offset, size]);
      return 0x80 + offset;
    },
    write: (offset, size, value) => void log.push(['write', offset, size, value]),
    ...more,
  };
}

describe('an index of a byte', () => {
  test('chooses the byte that the data port shows, without a call', async () => {
    const log: Log = [];
    const tiny = guest(
      real.out8(PORT, 5),
      real.in8(PORT + 1),
      real.storeAl(OUT),
      real.out8(PORT, 0x80 | 6),
      real.in8(PORT + 1),
      real.storeAl(OUT + 1),
    );
    tiny.vm.add(ports(bytes, log));
    tiny.vm.add(registers(log)).shadow.set([0x55, 0x66], 5);
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(OUT, 2)]).toEqual([0x55, 0x66]);
    expect(log).toEqual([]);
    expect(tiny.vm.counters().filter(({ name }) => name === 'registers')).toEqual([
      { name: 'registers', reads: 2, writes: 0, waits: 0 },
    ]);
  });

  test('holds for writes as well, which say where they go', async () => {
    const log: Log = [];
    const tiny = guest(
      real.out8(PORT, 3),
      real.out8(PORT + 1, 0x33),
      real.out8(PORT + 1, 0x34),
      real.out8(PORT, 9),
    );
    const handle = tiny.vm.add(ports(bytes, log));
    tiny.vm.add(registers(log));
    await runToHalt(tiny);
    expect(log).toEqual([
      ['write', 3, 1, 0x33],
      ['write', 3, 1, 0x34],
    ]);
    expect(handle.index).toBe(9);
  });

  test('leads to bytes of each mode', async () => {
    const log: Log = [];
    const tiny = guest(real.out8(PORT, 1), real.in8(PORT + 1), real.storeAl(OUT));
    tiny.vm.add(ports(bytes, log));
    tiny.vm.add(
      registers(log, { reads: Array.from({ length: 128 }, (_, i) => (i === 1 ? 'trap' : 'shadow')) }),
    );
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU8(OUT)).toBe(0x81);
    expect(log).toEqual([['read', 1, 1]]);
  });

  test('takes index and data of one access, byte by byte', async () => {
    const log: Log = [];
    const tiny = guest(real.out16(PORT, 0x4407), real.in16(PORT), real.storeAx(OUT));
    tiny.vm.add(ports(bytes, log)).shadow[0] = 0xff;
    tiny.vm.add(registers(log)).shadow[7] = 0x77;
    await runToHalt(tiny);
    expect(log).toEqual([['write', 7, 1, 0x44]]);
    expect(tiny.ram.memory.readU16(OUT)).toBe(0x77ff);
  });

  test('can be set by the device', async () => {
    const tiny = guest(real.in8(PORT + 1), real.storeAl(OUT));
    const handle = tiny.vm.add(ports(bytes, []));
    tiny.vm.add(registers([])).shadow[0x42] = 0x24;
    handle.index = 0x42;
    expect(handle.index).toBe(0x42);
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU8(OUT)).toBe(0x24);
  });
});

describe('an index of a dword', () => {
  const at = 0x8000_0308;
  /** 3 << 12 | 8 by the fields above */
  const chosen = 0x3008;

  test('is made of fields, and data are read and written at any width within them', async () => {
    const log: Log = [];
    const tiny = guest(
      real.out32(PORT, at),
      real.in32(PORT + 4),
      real.storeEax(OUT),
      real.in16(PORT + 6),
      real.storeAx(OUT + 4),
      real.in8(PORT + 5),
      real.storeAl(OUT + 6),
      real.out16(PORT + 6, 0xabcd),
    );
    tiny.vm.add(ports(dwords, log));
    const { shadow } = tiny.vm.add(registers(log, { base: BASE + 0x3000, size: 0x1000 }));
    shadow.set([1, 2, 3, 4], 8);
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(OUT, 7)]).toEqual([1, 2, 3, 4, 3, 4, 2]);
    expect(log).toEqual([['write', (chosen & 0xfff) + 2, 2, 0xabcd]]);
  });

  test.each([
    ['another value in the bits that have to match', 0x8001_0308],
    ['no value there', 0x0000_0308],
    ['a place where no region is', 0x8000_0408],
  ])('with %s shows an empty bus', async (_, index) => {
    const log: Log = [];
    const tiny = guest(
      real.out32(PORT, index),
      real.in32(PORT + 4),
      real.storeEax(OUT),
      real.out32(PORT + 4, 0),
    );
    tiny.vm.add(ports(dwords, log));
    tiny.vm.add(registers(log, { base: BASE + 0x3000, size: 0x1000 }));
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0xffff_ffff);
    expect(log).toEqual([]);
  });

  test('is written by its whole width alone; other writes are the device’s', async () => {
    const log: Log = [];
    const tiny = guest(real.out32(PORT, at), real.out8(PORT + 1, 6), real.out16(PORT, 7));
    const handle = tiny.vm.add(ports(dwords, log));
    await runToHalt(tiny);
    expect(handle.index).toBe(at);
    expect(log).toEqual([
      ['port', 1, 1, 6],
      ['port', 0, 2, 7],
    ]);
  });

  test('an access over its border is made in pieces', async () => {
    const log: Log = [];
    const tiny = guest(
      real.out32(PORT, at),
      real.out32(PORT + 2, 0x44332211),
      real.in32(PORT + 2),
      real.storeEax(OUT),
    );
    tiny.vm.add(ports(dwords, log)).shadow.fill(0xee);
    tiny.vm.add(registers(log, { base: BASE + 0x3000, size: 0x1000 })).shadow.set([1, 2, 3, 4], 8);
    await runToHalt(tiny);
    expect(log).toEqual([
      ['port', 2, 1, 0x11],
      ['port', 3, 1, 0x22],
      ['write', 8, 2, 0x4433],
    ]);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0x0201_eeee);
  });

  test('leads to MMIO too', async () => {
    const tiny = guest(real.out32(PORT, 0x8000_0004), real.in32(PORT + 4), real.storeEax(OUT));
    tiny.vm.add(ports({ ...dwords, space: 'mmio', base: 0xd000_0000 }, []));
    tiny.vm.add(registers([], { space: 'mmio', base: 0xd000_0000 })).shadow.set([9, 8, 7, 6], 4);
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0x0607_0809);
  });
});

describe('a window that cannot be is refused', () => {
  test.each<readonly [string, Partial<BusRegion>]>([
    ['index outside the region', { window: { ...bytes, index: { offset: 2, size: 1 } } }],
    ['data outside the region', { window: { ...bytes, data: { offset: 1, size: 2 } } }],
    ['a shift by more than there is', { window: { ...bytes, address: [{ mask: 1, shift: 32 }] } }],
    ['a window to ports', { window: { ...bytes, space: 'pio' as never } }],
    ['a window of a region that is no ports', { space: 'mmio', base: 0xd000_0000 }],
  ])('%s', (_, more) => {
    const tiny = guest();
    expect(() => tiny.vm.add(ports(bytes, [], { size: 2, ...more }))).toThrow(RangeError);
  });
});
