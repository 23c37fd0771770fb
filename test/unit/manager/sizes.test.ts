import { describe, expect, it } from 'vitest';

import { formatSize, parseSize, SizeError } from '../../../src/manager/sizes.ts';

const MIB = 1024 ** 2;

describe('parseSize', () => {
  it.each([
    ['512M', 512 * MIB],
    ['512MiB', 512 * MIB],
    ['512MB', 512 * MIB],
    ['512 mib', 512 * MIB],
    ['65536K', 64 * MIB],
    ['2g', 2048 * MIB],
    ['1T', 1024 * 1024 * MIB],
    [' 64M ', 64 * MIB],
  ])('reads %j', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it('counts a bare number as MiB', () => {
    expect(parseSize('768')).toBe(768 * MIB);
  });

  it('takes a fraction', () => {
    expect(parseSize('1.5G')).toBe(1536 * MIB);
  });

  it('cuts to whole pages, never more than was asked', () => {
    expect(parseSize('0.3G')).toBe(Math.floor((0.3 * 1024 ** 3) / 4096) * 4096);
    expect(parseSize('65537K')).toBe(64 * MIB);
  });

  it.each(['', 'M', '12X', '-1G', '1.G', '.5G', '1e3M', '0x10M', '5iB', '5B', '1,5G', 'NaN', '1GM', '1 2G'])(
    'refuses %j',
    (text) => {
      expect(() => parseSize(text)).toThrow(/not a size.*512M/);
    },
  );

  it('refuses less than a page', () => {
    expect(() => parseSize('0')).toThrow(SizeError);
    expect(() => parseSize('3K')).toThrow('less than one page of 4 KiB');
  });

  it('refuses what cannot be counted exactly', () => {
    expect(() => parseSize('9000000T')).toThrow('too large');
    expect(() => parseSize('9'.repeat(400))).toThrow('too large');
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [512 * MIB, '512 MiB'],
    [1024 * MIB - 1, '1 GiB'],
    [2048 * MIB * 1024, '2 TiB'],
    [4096 * 1024 * MIB * 1024, '4096 TiB'],
  ])('shows %d as %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});
