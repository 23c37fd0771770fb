import { describe, expect, it } from 'vitest';
import * as aml from '../../../src/machine/acpi/aml.ts';

const bytes = (term: Uint8Array): number[] => [...term];
const ascii = (text: string): number[] => [...Buffer.from(text, 'latin1')];

/** PkgLength read as ACPI 6.4, 20.2.4 describes it. */
function readLength(term: Uint8Array): { value: number; size: number } {
  const more = term[0]! >> 6;
  if (more === 0) return { value: term[0]! & 0x3f, size: 1 };
  let value = term[0]! & 0x0f;
  for (let i = 1; i <= more; i++) value += term[i]! * 2 ** (8 * i - 4);
  return { value, size: 1 + more };
}

describe('package lengths', () => {
  it.each([
    // [body, bytes of the length, encoded]: the length counts its own bytes
    [0, [0x01]],
    [0x3e, [0x3f]],
    [0x3f, [0x41, 0x04]],
    [0xffd, [0x4f, 0xff]],
    [0xffe, [0x81, 0x00, 0x01]],
    [0xffffc, [0x8f, 0xff, 0xff]],
    [0xffffd, [0xc1, 0x00, 0x00, 0x01]],
    [0xffffffb, [0xcf, 0xff, 0xff, 0xff]],
  ])('encodes a body of %i bytes', (body, expected) => {
    expect(bytes(aml.packageLength(body))).toEqual(expected);
  });

  it('takes the fewest bytes that hold it, everywhere around the limits', () => {
    for (const limit of [0x3f, 0xfff, 0xf_ffff]) {
      for (let body = limit - 8; body <= limit + 8; body++) {
        const term = aml.packageLength(body);
        const { value, size } = readLength(term);
        expect(value).toBe(body + term.length);
        expect(size).toBe(term.length);
        const smaller = [0, 0x3f, 0xfff, 0xf_ffff][size - 1]!;
        expect(body + size - 1, `${size} bytes for a body of ${body}`).toBeGreaterThanOrEqual(smaller);
      }
    }
  });

  it('refuses a package of 256 MiB', () => {
    expect(() => aml.packageLength(0xffffffc)).toThrow(RangeError);
  });

  it.each([0x3f, 0xfff, 0xf_ffff])('frame a buffer around %i bytes', (total) => {
    for (let size = total - 10; size <= total + 2; size++) {
      const term = aml.buffer(new Uint8Array(size));
      expect(readLength(term.subarray(1)).value).toBe(term.length - 1);
    }
  });
});

describe('names', () => {
  it.each([
    ['ABCD', ascii('ABCD')],
    ['_S5', ascii('_S5_')],
    ['A', ascii('A___')],
    ['\\', [0x5c, 0x00]],
    ['\\_SB', ascii('\\_SB_')],
    ['^', [0x5e, 0x00]],
    ['^^ABCD', ascii('^^ABCD')],
    ['_SB.PCI0', [0x2e, ...ascii('_SB_PCI0')]],
    ['\\_SB.PCI0', [0x5c, 0x2e, ...ascii('_SB_PCI0')]],
    ['^A.B.C', [0x5e, 0x2f, 3, ...ascii('A___B___C___')]],
  ])('encodes %s', (name, expected) => {
    expect(bytes(aml.path(name))).toEqual(expected);
  });

  it.each(['', 'abcd', '1ABC', 'ABCDE', 'A..B', 'A.', '.A', 'A^B', 'A\\B', 'A B', '\\^A', 'A\n'])(
    'refuses %j',
    (name) => {
      expect(() => aml.path(name)).toThrow(RangeError);
    },
  );
});

describe('integers', () => {
  it.each([
    [0, [0x00]],
    [1, [0x01]],
    [2, [0x0a, 2]],
    [0xff, [0x0a, 0xff]],
    [0x100, [0x0b, 0x00, 0x01]],
    [0xffff, [0x0b, 0xff, 0xff]],
    [0x1_0000, [0x0c, 0, 0, 1, 0]],
    [0xffff_ffff, [0x0c, 0xff, 0xff, 0xff, 0xff]],
    [0x1_0000_0000, [0x0e, 0, 0, 0, 0, 1, 0, 0, 0]],
    [2n ** 64n - 2n, [0x0e, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    [2n ** 64n - 1n, [0xff]],
  ])('encodes %s in the shortest form', (value, expected) => {
    expect(bytes(aml.integer(value))).toEqual(expected);
  });

  it.each([-1, 0.5, Number.NaN, 2n ** 64n])('refuses %s', (value) => {
    expect(() => aml.integer(value)).toThrow(RangeError);
  });
});

describe('data', () => {
  it('ends strings with NUL', () => {
    expect(bytes(aml.string('Hi'))).toEqual([0x0d, 0x48, 0x69, 0x00]);
  });

  it.each(['a\0b', 'ä'])('refuses the string %j', (text) => {
    expect(() => aml.string(text)).toThrow(RangeError);
  });

  it('switches to a VarPackage behind 255 elements', () => {
    const zeros = (count: number): Uint8Array[] => Array<Uint8Array>(count).fill(aml.integer(0));
    expect(bytes(aml.pkg(...zeros(255)).subarray(0, 4))).toEqual([0x12, 0x42, 0x10, 0xff]);
    // PkgLength 2, count as word 0x100, then 256 zeros
    expect(bytes(aml.pkg(...zeros(256)).subarray(0, 6))).toEqual([0x13, 0x45, 0x10, 0x0b, 0x00, 0x01]);
  });

  it('compresses EISA ids and leaves others strings', () => {
    // 0x030AD041 is what every PC's tables have for PNP0A03
    expect(bytes(aml.eisaId('PNP0A03'))).toEqual([0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    expect(bytes(aml.hardwareId('PNP0A03'))).toEqual(bytes(aml.eisaId('PNP0A03')));
    expect(bytes(aml.hardwareId('ACPI0007'))).toEqual([0x0d, ...ascii('ACPI0007'), 0]);
  });

  it.each(['PNP0A0', 'pnp0a03', 'ACPI0007'])('refuses %s as an EISA id', (id) => {
    expect(() => aml.eisaId(id)).toThrow(RangeError);
  });

  it('swaps the first fields of a UUID', () => {
    // aabbccdd-eeff-gghh-iijj-kkllmmnnoopp of ACPI 6.4, 19.6 "ToUUID"
    expect(bytes(aml.uuid('00112233-4455-6677-8899-aabbccddeeff'))).toEqual([
      0x11, 0x13, 0x0a, 0x10, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
      0xdd, 0xee, 0xff,
    ]);
  });

  it('refuses what is no UUID', () => {
    expect(() => aml.uuid('00112233-4455-6677-8899-aabbccddeef')).toThrow(RangeError);
  });
});

it('refuses a method of eight arguments', () => {
  expect(() => aml.method('METH', { args: 8 })).toThrow(RangeError);
});

it('refuses a field unit wider than a PkgLength holds', () => {
  expect(() => aml.field('REGN', { access: 'byte' }, { bits: 2 ** 28 })).toThrow(RangeError);
});
