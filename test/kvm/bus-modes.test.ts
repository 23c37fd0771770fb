import { describe, expect, test } from 'vitest';
import type { BusRegion, ReadMode, WriteMode } from '../../src/kvm/bus.ts';
import { runToHalt, tinyGuests } from '../support/tiny-guests.ts';
import { real } from '../support/x86.ts';

const PORT = 0x500;
/** where the guests leave what they read */
const OUT = 0x600;
const MMIO = 0xd0000;

const guest = tinyGuests();

type Log = (readonly [string, ...number[]])[];

/** A region on `size` ports that logs its calls and answers reads with 0x11223344. */
function logging(reads: ReadMode, writes: WriteMode, log: Log, more: Partial<BusRegion> = {}): BusRegion {
  return {
    name: 'device',
    space: 'pio',
    base: PORT,
    size: 8,
    reads,
    writes,
    read: (offset, size) => {
      log.push(['read', offset, size]);
      return 0x11223344;
    },
    write: (offset, size, value) => void log.push(['write', offset, size, value]),
    consumed: (offset, size) => void log.push(['consumed', offset, size]),
    ...more,
  };
}

describe('trap', () => {
  test('a read is answered by the device, cut to the width of the access', async () => {
    const log: Log = [];
    const tiny = guest(
      real.movEax(0),
      real.in8(PORT),
      real.storeEax(OUT),
      real.in16(PORT + 2),
      real.storeEax(OUT + 4),
      real.in32(PORT + 4),
      real.storeEax(OUT + 8),
    );
    tiny.vm.add(logging('trap', 'trap', log));
    await runToHalt(tiny);
    expect(log).toEqual([
      ['read', 0, 1],
      ['read', 2, 2],
      ['read', 4, 4],
    ]);
    const { memory } = tiny.ram;
    expect([0, 4, 8].map((at) => memory.readU32(OUT + at))).toEqual([0x44, 0x3344, 0x11223344]);
  });

  test('a write is taken by the device before the guest goes on', async () => {
    const log: Log = [];
    const tiny = guest(real.out8(PORT, 0x12), real.out16(PORT + 1, 0xfedc), real.out32(PORT + 4, 0xdeadbeef));
    tiny.vm.add(logging('trap', 'trap', log));
    await runToHalt(tiny);
    expect(log).toEqual([
      ['write', 0, 1, 0x12],
      ['write', 1, 2, 0xfedc],
      ['write', 4, 4, 0xdeadbeef],
    ]);
  });

  test.each([
    ['a negative number', -2, 0xfffffffe],
    ['a fraction', 7.9, 7],
    ['NaN', NaN, 0],
    ['more than 32 bits', 2 ** 32 + 5, 5],
  ])('an answer that is %s becomes 32 bits as in JavaScript', async (_, answer, seen) => {
    const tiny = guest(real.in32(PORT), real.storeEax(OUT));
    tiny.vm.add(logging('trap', 'trap', [], { read: () => answer }));
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(seen);
  });

  test('a device without callbacks reads as an empty bus and takes writes', async () => {
    const tiny = guest(real.out8(PORT, 1), real.in32(PORT), real.storeEax(OUT));
    tiny.vm.add({ name: 'bare', space: 'pio', base: PORT, size: 8, reads: 'trap', writes: 'trap' });
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU32(OUT)).toBe(0xffffffff);
  });
});

describe('shadow', () => {
  test('reads are served from the bytes that the device keeps, without a call', async () => {
    const log: Log = [];
    const tiny = guest(
      real.in32(PORT),
      real.storeEax(OUT),
      real.in16(PORT + 1),
      real.storeAx(OUT + 4),
      real.in8(PORT + 7),
      real.storeAl(OUT + 6),
    );
    const { shadow } = tiny.vm.add(logging('shadow', 'ignore', log));
    shadow.set([1, 2, 3, 4, 5, 6, 7, 8]);
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(OUT, 7)]).toEqual([1, 2, 3, 4, 2, 3, 8]);
    expect(log).toEqual([]);
    expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 3, writes: 0, waits: 0 });
  });

  test('a region that reads no shadow has none', () => {
    const tiny = guest();
    expect(tiny.vm.add(logging('trap', 'posted', [])).shadow).toHaveLength(0);
  });
});

describe('ordered', () => {
  test('a read sees what the device made of the writes before it', async () => {
    const tiny = guest(real.out8(PORT, 5), real.in8(PORT + 1), real.storeAl(OUT));
    const handle = tiny.vm.add(
      logging('ordered', 'posted', [], { write: (_offset, _size, value) => (handle.shadow[1] = value + 1) }),
    );
    await runToHalt(tiny);
    expect(tiny.ram.memory.readU8(OUT)).toBe(6);
  });

  test('a read with nothing on its way does not wait', async () => {
    const tiny = guest(real.in8(PORT));
    tiny.vm.add(logging('ordered', 'posted', []));
    await runToHalt(tiny);
    expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 1, writes: 0, waits: 0 });
  });
});

describe('consume', () => {
  test('the device is told after the read, in order with the writes around it', async () => {
    const log: Log = [];
    const tiny = guest(
      real.out8(PORT, 1),
      real.in16(PORT + 2),
      real.storeAx(OUT),
      real.out8(PORT, 2),
      real.in8(PORT + 2),
      real.storeAl(OUT + 2),
    );
    const handle = tiny.vm.add(
      logging('consume', 'posted', log, {
        consumed: (offset, size) => {
          log.push(['consumed', offset, size]);
          handle.shadow[2] = 0x99;
        },
      }),
    );
    handle.shadow.set([0x34, 0x12], 2);
    await runToHalt(tiny);
    expect(log).toEqual([
      ['write', 0, 1, 1],
      ['consumed', 2, 2],
      ['write', 0, 1, 2],
      ['consumed', 2, 1],
    ]);
    expect([...tiny.ram.memory.read(OUT, 3)]).toEqual([0x34, 0x12, 0x99]);
  });
});

describe('counter', () => {
  const reading = async (hz: number, bits: 24 | 32): Promise<number> => {
    const tiny = guest(real.in32(PORT), real.storeEax(OUT));
    tiny.vm.add(logging('counter', 'ignore', [], { counter: { hz, bits } }));
    await new Promise((resolve) => setTimeout(resolve, 30));
    await runToHalt(tiny);
    return tiny.ram.memory.readU32(OUT);
  };

  test('it counts from the creation of the VM', async () => {
    const start = performance.now();
    const microseconds = await reading(1e6, 32);
    expect(microseconds).toBeGreaterThanOrEqual(29e3);
    expect(microseconds).toBeLessThanOrEqual((performance.now() - start + 1) * 1e3);
  });

  test('it goes on from what it is set to', async () => {
    const tiny = guest(real.in32(PORT), real.storeEax(OUT));
    const region = tiny.vm.add(logging('counter', 'ignore', [], { counter: { hz: 1e6, bits: 32 } }));
    const start = performance.now();
    region.counter = 3e9;
    await runToHalt(tiny);
    const read = tiny.ram.memory.readU32(OUT);
    expect(read).toBeGreaterThanOrEqual(3e9);
    expect(read).toBeLessThanOrEqual(region.counter);
    expect(region.counter).toBeLessThanOrEqual(3e9 + (performance.now() - start + 1) * 1e3);
  });

  test('what it is set to wraps at its bits', () => {
    const { vm } = guest(real.in32(PORT));
    const region = vm.add(logging('counter', 'ignore', [], { counter: { hz: 1, bits: 24 } }));
    region.counter = 0xffff_ff00;
    expect(region.counter).toBeGreaterThanOrEqual(0xff_ff00);
    expect(region.counter).toBeLessThan(0x100_0000);
  });

  test('24 bits wrap at 24 bits', async () => {
    // 30 ms are three times around, so that the upper byte would not be 0 by chance
    const ticks = await reading(2e9, 24);
    expect(ticks).toBeLessThan(2 ** 24);
    expect(ticks).toBeGreaterThan(0);
  });

  test('two reads never go backwards', async () => {
    const tiny = guest(real.in32(PORT), real.storeEax(OUT), real.in32(PORT), real.storeEax(OUT + 4));
    tiny.vm.add(logging('counter', 'ignore', [], { counter: { hz: 3_579_545, bits: 32 } }));
    await runToHalt(tiny);
    const { memory } = tiny.ram;
    expect(memory.readU32(OUT + 4)).toBeGreaterThanOrEqual(memory.readU32(OUT));
  });
});

describe('ignore', () => {
  test('writes reach nobody', async () => {
    const log: Log = [];
    const tiny = guest(real.out32(PORT, 1));
    const { shadow } = tiny.vm.add(logging('shadow', 'ignore', log));
    await runToHalt(tiny);
    expect(log).toEqual([]);
    expect([...shadow]).toEqual(Array(8).fill(0));
  });
});

test('posted writes arrive before a trap that the guest makes after them', async () => {
  const log: Log = [];
  const tiny = guest(real.out8(PORT, 1), real.out8(PORT + 1, 2), real.in8(PORT + 16), real.out8(PORT, 3));
  tiny.vm.add(logging('trap', 'posted', log));
  tiny.vm.add(
    logging('trap', 'trap', log, { name: 'other', base: PORT + 16, read: () => log.push(['trap']) }),
  );
  await runToHalt(tiny);
  expect(log).toEqual([['write', 0, 1, 1], ['write', 1, 1, 2], ['trap'], ['write', 0, 1, 3]]);
});

test('a write that clears does so at once, by aligned words alone, and tells nobody', async () => {
  const log: Log = [];
  const tiny = guest(
    real.out32(PORT + 4, 0x8000_0021),
    real.in32(PORT),
    real.storeEax(OUT),
    real.out8(PORT + 4, 0xff),
    real.out16(PORT + 4, 0xffff),
    real.out32(PORT + 6, 0xffff_ffff),
    real.in32(PORT),
    real.storeEax(OUT + 4),
  );
  const { shadow } = tiny.vm.add(
    logging('shadow', 'clear', log, { size: 10, clears: 0, reads: 'shadow', writes: 'clear' }),
  );
  shadow.set([0xff, 0x00, 0x12, 0x80]);
  Atomics.or(shadow, 1, 0x40);
  await runToHalt(tiny);
  expect([...tiny.ram.memory.read(OUT, 8)]).toEqual([0xde, 0x40, 0x12, 0x00, 0xde, 0x40, 0x12, 0x00]);
  expect(log).toEqual([]);
  expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 2, writes: 4, waits: 0 });
});

test('a region whose writes clear has the word that they clear', () => {
  const tiny = guest();
  const region = (more: Partial<BusRegion>): BusRegion => ({
    ...logging('shadow', 'clear', [], { size: 8 }),
    ...more,
  });
  for (const wrong of [{ clears: 2 }, { clears: 8 }, { clears: 0, reads: 'trap' as const }]) {
    expect(() => tiny.vm.add(region(wrong))).toThrow(RangeError);
  }
});

describe('modes by byte', () => {
  const reads: ReadMode[] = ['shadow', 'shadow', 'trap', 'shadow'];
  const writes: WriteMode[] = ['ignore', 'posted', 'trap', 'ignore'];

  test('each byte is read as its mode says', async () => {
    const log: Log = [];
    const tiny = guest(real.in8(PORT + 1), real.storeAl(OUT), real.in8(PORT + 2), real.storeAl(OUT + 1));
    const { shadow } = tiny.vm.add({ ...logging('trap', 'trap', log, { size: 4 }), reads, writes });
    shadow.fill(0x77);
    await runToHalt(tiny);
    expect([...tiny.ram.memory.read(OUT, 2)]).toEqual([0x77, 0x44]);
    expect(log).toEqual([['read', 2, 1]]);
  });

  test('an access over several bytes follows the slowest of them', async () => {
    const log: Log = [];
    const tiny = guest(
      real.in16(PORT),
      real.in32(PORT),
      real.out8(PORT, 1),
      real.out8(PORT + 3, 1),
      real.out16(PORT, 0x201),
      real.out32(PORT, 0x4030201),
    );
    tiny.vm.add({ ...logging('trap', 'trap', log, { size: 4 }), reads, writes });
    await runToHalt(tiny);
    expect(log).toEqual([
      ['read', 0, 4],
      ['write', 0, 2, 0x201],
      ['write', 0, 4, 0x4030201],
    ]);
    expect(tiny.vm.counters()).toContainEqual({ name: 'device', reads: 2, writes: 4, waits: 2 });
  });
});

test('MMIO is dispatched by address, apart from the port of the same number', async () => {
  const log: Log = [];
  const tiny = guest(
    real.movDs(MMIO >> 4),
    real.movEax(0x44332211),
    real.storeAl(0),
    real.storeAx(2),
    real.storeEax(4),
    real.loadAl(1),
    real.loadAx(2),
    real.loadEax(4),
  );
  tiny.vm.add(logging('trap', 'trap', log, { space: 'mmio', base: MMIO }));
  tiny.vm.add(logging('trap', 'trap', log, { name: 'port', base: MMIO & 0xffff }));
  await runToHalt(tiny);
  expect(log).toEqual([
    ['write', 0, 1, 0x11],
    ['write', 2, 2, 0x2211],
    ['write', 4, 4, 0x44332211],
    ['read', 1, 1],
    ['read', 2, 2],
    ['read', 4, 4],
  ]);
});
