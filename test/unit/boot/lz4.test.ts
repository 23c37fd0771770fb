import { describe, expect, test } from 'vitest';
import { unpackLz4 } from '../../../src/boot/lz4.ts';
import { UnpackError } from '../../../src/boot/unpack-error.ts';
import { concat, lz4Literals, pattern } from '../../support/kernels.ts';
import { compress } from './tools.ts';

const LIMIT = 2 ** 26;
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

/** A legacy frame of blocks given byte by byte. */
function legacy(...blocks: (readonly number[])[]): Uint8Array {
  return concat([
    Uint8Array.of(0x02, 0x21, 0x4c, 0x18),
    ...blocks.map((block) => Uint8Array.of(block.length & 0xff, block.length >> 8, 0, 0, ...block)),
  ]);
}

/** Content with all that a compressor makes of it: long and short matches, near and far, and none. */
function mixed(length: number): Uint8Array {
  const bytes = pattern(length, 11);
  for (let at = 1000; at + 700 < length; at += 3000) bytes.copyWithin(at, at - 777, at - 777 + 700);
  bytes.fill(0, length >> 1, (length >> 1) + 40_000);
  for (let at = 500; at + 40 < length; at += 1111) bytes.set(text('a repeated phrase, '), at);
  return bytes;
}

describe('an LZ4 block', () => {
  test('of literals only', () => {
    expect(unpackLz4(legacy([0x30, 0x61, 0x62, 0x63]), LIMIT)).toEqual(text('abc'));
  });

  test('with a match', () => {
    // abcd, 4 bytes from 4 back, then the literal e
    const block = [0x40, 0x61, 0x62, 0x63, 0x64, 4, 0, 0x10, 0x65];
    expect(unpackLz4(legacy(block), LIMIT)).toEqual(text('abcdabcde'));
  });

  test('with a match that overlaps itself repeats', () => {
    // ab, 7 bytes from 2 back, then c
    const block = [0x23, 0x61, 0x62, 2, 0, 0x10, 0x63];
    expect(unpackLz4(legacy(block), LIMIT)).toEqual(text('ababababac'));
  });

  test('with lengths in more bytes', () => {
    // x, a match of 4 + 15 + 255 + 10 = 284 from 1 back, then 15 + 0 literals
    const block = [0x1f, 0x78, 1, 0, 255, 10, 0xf0, 0, ...text('123456789012345')];
    expect(unpackLz4(legacy(block), LIMIT)).toEqual(text(`${'x'.repeat(285)}123456789012345`));
  });

  test.each([
    ['a match before the start', [0x10, 0x61, 2, 0, 0x10, 0x61]],
    ['a match at distance 0', [0x10, 0x61, 0, 0, 0x10, 0x61]],
    ['literals that are not there', [0x50, 0x61]],
    ['a length that does not end', [0xf0, 255, 255]],
    ['half an offset', [0x10, 0x61, 1]],
    ['a match at its end', [0x10, 0x61, 1, 0]],
    ['nothing', []],
  ])('with %s is refused', (_, block) => {
    expect(() => unpackLz4(legacy(block), LIMIT)).toThrow(UnpackError);
  });
});

describe('an LZ4 legacy frame', () => {
  test('of several blocks', () => {
    expect(unpackLz4(legacy([0x20, 0x61, 0x62], [0x10, 0x63]), LIMIT)).toEqual(text('abc'));
  });

  test('has no matches into an earlier block', () => {
    expect(() => unpackLz4(legacy([0x20, 0x61, 0x62], [0x10, 0x63, 3, 0, 0x10, 0x63]), LIMIT)).toThrow(
      UnpackError,
    );
  });

  test('may be followed by another', () => {
    expect(unpackLz4(concat([lz4Literals(text('one ')), lz4Literals(text('two'))]), LIMIT)).toEqual(
      text('one two'),
    );
  });

  test('that is cut is refused', () => {
    const packed = lz4Literals(pattern(1000, 1));
    for (const length of [3, 6, 100, packed.length - 1]) {
      expect(() => unpackLz4(packed.subarray(0, length), LIMIT)).toThrow(UnpackError);
    }
  });

  test('that gives more than the limit is refused', () => {
    const packed = lz4Literals(pattern(1000, 1));
    expect(unpackLz4(packed, 1000)).toHaveLength(1000);
    expect(() => unpackLz4(packed, 999)).toThrow(/more than it may/);
  });

  test('of more blocks than any kernel has is refused before they are unpacked', () => {
    const block = [1, 0, 0, 0, 0];
    const packed = Uint8Array.from({ length: 4 + 70_000 * 5 }, (_, i) =>
      i < 4 ? [0x02, 0x21, 0x4c, 0x18][i]! : block[(i - 4) % 5]!,
    );
    expect(() => unpackLz4(packed, LIMIT)).toThrow(/too many blocks/);
  });
});

describe('what the lz4 tool packs', () => {
  const content = mixed(9_000_000);

  test.for([
    ['a legacy frame of two blocks', ['-l']],
    ['a legacy frame, highest compression', ['-l', '-9']],
    ['a frame of linked blocks with a content checksum', ['-BD', '-B4']],
    ['a frame of independent blocks, highest compression', ['-BI', '-9']],
    ['a frame with its size and block checksums', ['--content-size', '-BX', '-B4']],
    ['a frame without a checksum', ['--no-frame-crc']],
  ] as const)('unpacks to the same: %s', ([, args], context) => {
    const packed = compress(context, 'lz4', ['-q', '-c', ...args], content);
    expect(Buffer.compare(unpackLz4(packed, LIMIT), content)).toBe(0);
  });

  test('is refused with a wrong content checksum', (context) => {
    const packed = compress(context, 'lz4', ['-q', '-c'], content);
    packed[packed.length - 1]! ^= 1;
    expect(() => unpackLz4(packed, LIMIT)).toThrow(/checksum is wrong/);
  });

  test('is refused with a damaged frame header', (context) => {
    const packed = compress(context, 'lz4', ['-q', '-c'], content);
    packed[6]! ^= 1;
    expect(() => unpackLz4(packed, LIMIT)).toThrow(/header's checksum is wrong/);
  });
});
