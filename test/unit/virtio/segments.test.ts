import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { Segments } from '../../../src/virtio/segments.ts';

/** Two windows that meet at 16, and pieces of 3, 5, 1 and 7 bytes of which the second lies over the border. */
function fixture(writable = true): { memory: GuestMemory; segments: Segments; lifetime: { ended: boolean } } {
  const memory = new GuestMemory([
    { base: 0, bytes: new Uint8Array(16) },
    { base: 16, bytes: new Uint8Array(48) },
  ]);
  memory.write(
    0,
    Uint8Array.from({ length: 64 }, (_, i) => i),
  );
  const lifetime = { ended: false };
  const segments = new Segments(memory, lifetime, writable);
  for (const [address, length] of [
    [2, 3],
    [14, 5],
    [40, 1],
    [50, 7],
  ] as const) {
    segments.add(address, length);
  }
  return { memory, segments, lifetime };
}

const BYTES = [2, 3, 4, 14, 15, 16, 17, 18, 40, 50, 51, 52, 53, 54, 55, 56];

describe('bytes', () => {
  test.each([0, 1, 3, 4, 7, 8, 9, 15])(
    'are read from offset %i on, over borders of pieces and windows',
    (offset) => {
      const target = new Uint8Array(20);
      expect(fixture().segments.read(offset, target)).toBe(16 - offset);
      expect([...target.subarray(0, 16 - offset)]).toEqual(BYTES.slice(offset));
    },
  );

  test('are read no further than asked', () => {
    const target = new Uint8Array(4);
    expect(fixture().segments.read(2, target)).toBe(4);
    expect([...target]).toEqual(BYTES.slice(2, 6));
  });

  test('past the end are none', () => {
    expect(fixture().segments.read(16, new Uint8Array(1))).toBe(0);
    expect(fixture().segments.write(16, new Uint8Array(1))).toBe(0);
  });

  test.each([0, 2, 5, 8, 14])('are written from offset %i on, and nothing beside them', (offset) => {
    const { segments, memory } = fixture();
    const source = Uint8Array.from({ length: 9 }, (_, i) => 200 + i);
    const expected = memory.read(0, 64);
    BYTES.slice(offset, offset + 9).forEach((at, i) => (expected[at] = 200 + i));
    expect(segments.write(offset, source)).toBe(Math.min(9, 16 - offset));
    expect(memory.read(0, 64)).toEqual(expected);
  });

  test('are filled, and nothing beside them', () => {
    const { segments, memory } = fixture();
    const expected = memory.read(0, 64);
    for (const at of BYTES.slice(1, 11)) expected[at] = 7;
    expect(segments.fill(1, 10, 7)).toBe(10);
    expect(memory.read(0, 64)).toEqual(expected);
  });

  test('that the device may only read are not written', () => {
    expect(() => fixture(false).segments.write(0, Uint8Array.of(1))).toThrow(TypeError);
  });
});

describe('numbers', () => {
  test.each([0, 1, 2, 5, 8, 12])('are read little-endian at offset %i', (offset) => {
    const { segments } = fixture();
    const view = new DataView(Uint8Array.from(BYTES).buffer);
    expect(segments.readU8(offset)).toBe(view.getUint8(offset));
    expect(segments.readU16(offset)).toBe(view.getUint16(offset, true));
    expect(segments.readU32(offset)).toBe(view.getUint32(offset, true));
  });

  test('of 64 bits are read and written', () => {
    const { segments } = fixture();
    segments.writeU64(3, 0x0012_3456_789a_bcde);
    expect(segments.readU64(3)).toBe(0x0012_3456_789a_bcde);
  });

  test('of 16 and 32 bits are written over borders', () => {
    const { segments } = fixture();
    segments.writeU16(2, 0xbeef);
    segments.writeU32(6, 0xdead_c0de);
    expect(segments.readU16(2)).toBe(0xbeef);
    expect(segments.readU32(6)).toBe(0xdead_c0de);
  });

  test('past the end are a bug of the device', () => {
    const { segments } = fixture();
    expect(() => segments.readU8(16)).toThrow(RangeError);
    expect(() => segments.readU32(13)).toThrow(RangeError);
    expect(() => segments.writeU8(16, 1)).toThrow(RangeError);
  });
});

describe('ranges', () => {
  test('become pieces for native I/O', () => {
    const { segments, memory, lifetime } = fixture();
    const target = new Segments(memory, lifetime, true);
    expect(segments.slice(2, 8, target)).toBe(8);
    expect([...target.addresses.subarray(0, target.count)]).toEqual([4, 14, 40, 50]);
    expect([...target.lengths.subarray(0, target.count)]).toEqual([1, 5, 1, 1]);
    expect(target.byteLength).toBe(8);
  });

  test('past the end are cut', () => {
    const { segments, memory, lifetime } = fixture();
    expect(segments.slice(10, 100, new Segments(memory, lifetime, true))).toBe(6);
  });

  test('are seen in place, cut at windows', () => {
    const { segments, memory } = fixture();
    const views = segments.views();
    expect(views.map((view) => view.length)).toEqual([3, 2, 3, 1, 7]);
    views[3]![0] = 99;
    expect(memory.readU8(40)).toBe(99);
  });
});
