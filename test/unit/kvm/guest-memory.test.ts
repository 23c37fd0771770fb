import { describe, expect, test } from 'vitest';
import { GuestFault, GuestMemory, join64 } from '../../../src/kvm/guest-memory.ts';

/** RAM at 0x1000 to 0x1020 in two windows, and at 0x8000 to 0x8010. */
function ram() {
  const low = new Uint8Array(16);
  const next = new Uint8Array(16);
  // a view with an offset in its buffer, as windows may be
  const high = new Uint8Array(new ArrayBuffer(32), 8, 16);
  const memory = new GuestMemory([
    { base: 0x8000, bytes: high },
    { base: 0x1000, bytes: low },
    { base: 0x1010, bytes: next },
  ]);
  return { memory, low, next, high };
}

describe('construction', () => {
  test('needs a window', () => {
    expect(() => new GuestMemory([])).toThrow(RangeError);
  });

  test('refuses windows that overlap, in any order', () => {
    const windows = [
      { base: 0x100f, bytes: new Uint8Array(16) },
      { base: 0x1000, bytes: new Uint8Array(16) },
    ];
    expect(() => new GuestMemory(windows)).toThrow('overlap');
    expect(() => new GuestMemory([...windows].reverse())).toThrow('overlap');
  });

  test('refuses a window above 2 GiB', () => {
    // V8 commits no pages for it before they are touched
    expect(() => new GuestMemory([{ base: 0, bytes: new Uint8Array(2 ** 31 + 1) }])).toThrow('2 GiB');
  });
});

describe('what is there', () => {
  test('size is the sum, ranges join neighbours in ascending order', () => {
    const { memory } = ram();
    expect(memory.size).toBe(48);
    expect(memory.ranges).toEqual([
      { base: 0x1000, size: 32 },
      { base: 0x8000, size: 16 },
    ]);
  });

  test.each([
    [0x1000, 0, true],
    [0x1000, 32, true],
    [0x100f, 2, true],
    [0x1000, 33, false],
    [0x0fff, 1, false],
    [0x0fff, 2, false],
    [0x101f, 1, true],
    [0x1020, 0, false],
    [0x8000, 16, true],
    [0x8000, 17, false],
    [0x1000, 0x7010, false],
    [-1, 1, false],
    [0x1000, -1, false],
    [NaN, 1, false],
    [0x1000, NaN, false],
    [0x1000, Infinity, false],
    [2 ** 64, 1, false],
    [2 ** 53 - 1, 8, false],
  ])('contains(%d, %d) is %s', (address, length, expected) => {
    expect(ram().memory.contains(address, length)).toBe(expected);
  });
});

describe('numbers', () => {
  test('are little-endian, of any alignment, in one window', () => {
    const { memory, low } = ram();
    memory.writeU32(0x1001, 0x44332211);
    expect([...low.subarray(0, 6)]).toEqual([0, 0x11, 0x22, 0x33, 0x44, 0]);
    expect(memory.readU8(0x1002)).toBe(0x22);
    expect(memory.readU16(0x1002)).toBe(0x3322);
    expect(memory.readU32(0x1001)).toBe(0x44332211);
    memory.writeU16(0x1001, 0xfffe);
    memory.writeU8(0x1004, 0x1ff);
    expect([...low.subarray(0, 6)]).toEqual([0, 0xfe, 0xff, 0x33, 0xff, 0]);
  });

  test.each([1, 2, 3, 4, 5, 6, 7])('cross a border after %d of their bytes', (before) => {
    const { memory, low, next } = ram();
    const at = 0x1010 - before;
    memory.writeU64(at, 0x1f223344556677);
    expect([...low.subarray(16 - before), ...next.subarray(0, 8 - before)]).toEqual([
      0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x1f, 0,
    ]);
    expect(memory.readU64(at)).toBe(0x1f223344556677);
    expect(memory.readU32(at)).toBe(0x44556677);
    expect(memory.readU32(at + 4)).toBe(0x1f2233);
    expect(memory.readU16(at + before - 1)).toBe(
      memory.readU8(at + before - 1) + 256 * memory.readU8(at + before),
    );
  });

  test('32 bits are unsigned, also across a border', () => {
    const { memory } = ram();
    for (const at of [0x1000, 0x100e]) {
      memory.writeU32(at, 0xffffffff);
      expect(memory.readU32(at)).toBe(0xffffffff);
      memory.writeU32(at, -2);
      expect(memory.readU32(at)).toBe(0xfffffffe);
    }
  });

  test('64 bits above 2^53 are inexact but stay far outside RAM', () => {
    const { memory, low } = ram();
    low.fill(0xff, 0, 8);
    expect(memory.readU64(0x1000)).toBeGreaterThan(2 ** 63);
    expect(join64(-1, -1)).toBe(2 ** 64);
    expect(join64(-1, 0)).toBe(0xffffffff);
    expect(join64(5, 1)).toBe(2 ** 32 + 5);
  });
});

describe('bytes', () => {
  test('view() is the memory itself, or undefined across a border', () => {
    const { memory, high } = ram();
    const view = memory.view(0x8004, 4)!;
    view.fill(7);
    expect([...high.subarray(3, 9)]).toEqual([0, 7, 7, 7, 7, 0]);
    expect(view.buffer).toBe(high.buffer);
    expect(memory.view(0x100f, 2)).toBeUndefined();
    expect(memory.view(0x1000, 0)).toHaveLength(0);
  });

  test('slices() are the memory itself in pieces', () => {
    const { memory, low, next } = ram();
    const slices = memory.slices(0x100c, 10);
    expect(slices.map((slice) => slice.length)).toEqual([4, 6]);
    slices[0]!.fill(1);
    slices[1]!.fill(2);
    expect([low[11], low[12], next[5], next[6]]).toEqual([0, 1, 2, 0]);
    expect(memory.slices(0x1000, 0)).toEqual([]);
  });

  test('read() is a copy', () => {
    const { memory, low, next } = ram();
    low.fill(3);
    next.fill(4);
    const one = memory.read(0x1000, 2);
    const two = memory.read(0x100f, 2);
    low.fill(0);
    expect([[...one], [...two]]).toEqual([
      [3, 3],
      [3, 4],
    ]);
  });

  test('write() and fill() reach over borders', () => {
    const { memory, low, next } = ram();
    memory.write(0x100e, Uint8Array.of(1, 2, 3, 4));
    expect([...low.subarray(14), ...next.subarray(0, 2)]).toEqual([1, 2, 3, 4]);
    memory.fill(0x100f, 2, 9);
    expect([...low.subarray(14), ...next.subarray(0, 2)]).toEqual([1, 9, 9, 4]);
  });
});

describe('faults', () => {
  const accesses: [string, (memory: GuestMemory, address: number) => unknown, number][] = [
    ['readU8', (m, at) => m.readU8(at), 1],
    ['readU16', (m, at) => m.readU16(at), 2],
    ['readU32', (m, at) => m.readU32(at), 4],
    ['readU64', (m, at) => m.readU64(at), 8],
    ['writeU8', (m, at) => m.writeU8(at, 255), 1],
    ['writeU16', (m, at) => m.writeU16(at, 0xffff), 2],
    ['writeU32', (m, at) => m.writeU32(at, 0xffffffff), 4],
    ['writeU64', (m, at) => m.writeU64(at, 2 ** 53 - 1), 8],
    ['view', (m, at) => m.view(at, 5), 5],
    ['slices', (m, at) => m.slices(at, 5), 5],
    ['read', (m, at) => m.read(at, 5), 5],
    ['write', (m, at) => m.write(at, new Uint8Array(5).fill(255)), 5],
    ['fill', (m, at) => m.fill(at, 5, 255), 5],
  ];

  test.each(accesses)('%s outside RAM is a GuestFault, and writes nothing', (_, access, width) => {
    const { memory, low, next, high } = ram();
    const outside = [0, 0xfff, 0x1021 - width, 0x1020, 0x7fff, 0x8011 - width, -1, NaN, Infinity, 2 ** 64];
    for (const address of outside) expect(() => access(memory, address)).toThrow(GuestFault);
    expect([...low, ...next, ...high].every((byte) => byte === 0)).toBe(true);
  });

  test.each(accesses)('%s up to the last byte is none', (_, access, width) => {
    const { memory } = ram();
    access(memory, 0x1020 - width);
    access(memory, 0x8010 - width);
  });

  test.each([-1, NaN, Infinity, 2 ** 53])('a length of %d is a GuestFault', (length) => {
    const { memory } = ram();
    expect(() => memory.view(0x1000, length)).toThrow(GuestFault);
    expect(() => memory.slices(0x1000, length)).toThrow(GuestFault);
    expect(() => memory.read(0x1000, length)).toThrow(GuestFault);
    expect(() => memory.fill(0x1000, length)).toThrow(GuestFault);
  });

  test('says where', () => {
    const { memory } = ram();
    expect(() => memory.read(0x8008, 16)).toThrow(new GuestFault(0x8008, 16));
    expect(new GuestFault(0x8008, 16)).toMatchObject({
      name: 'GuestFault',
      address: 0x8008,
      length: 16,
      message: 'guest memory access outside RAM: 16 bytes at 0x8008',
    });
  });
});
