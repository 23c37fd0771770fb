import { describe, expect, it } from 'vitest';

import { digestOf, findChecksum } from '../../../../src/manager/images/checksums.ts';

const A = 'a1'.repeat(32);
const B = 'b2'.repeat(32);
const LONG = 'c3'.repeat(64);

const find = (text: string, name = 'disk.img') => findChecksum(text, name, 'LIST').hex;

describe('lists of checksums', () => {
  it.each([
    ['of sha256sum', `${B}  other.img\n${A}  disk.img\n`],
    ['of sha256sum --binary', `${A} *disk.img\n${B} *disk.img.zsync\n`],
    ['of sha256sum --tag', `SHA256 (other.img) = ${B}\nSHA256 (disk.img) = ${A}\n`],
    ['in capital letters', `${A.toUpperCase()}  disk.img\n`],
    ['with folders of their own', `${A}  ./disk.img\n`],
    ['with lines of another system', `${B}  x\r\n${A}  disk.img\r\n`],
    ['with the same twice', `${A}  disk.img\n${A} *disk.img\n`],
    ['that are one checksum', `${A}\n`],
    ['with others for older tools', `${'d4'.repeat(16)}  disk.img\n${A}  disk.img\n`],
  ])('%s', (_, text) => {
    expect(find(text)).toBe(A);
  });

  it('count the strongest of a file', () => {
    expect(find(`${A}  disk.img\n${LONG}  disk.img\n`)).toBe(LONG);
  });

  it.each([
    ['that have another file', `${A}  disk.img.zsync\n`],
    ['that have it in another folder', `${A}  old/disk.img\n`],
    ['that are empty', ''],
    ['that are a page', '<html></html>'],
    ['that are of MD5', `${'d4'.repeat(16)}  disk.img\n`],
    ['that end too early', `${A.slice(1)}  disk.img\n`],
  ])('are refused: %s', (_, text) => {
    expect(() => find(text)).toThrow(/^LIST has no checksum of disk\.img$/);
  });

  it('are refused where they contradict themselves', () => {
    expect(() => find(`${A}  disk.img\n${B}  disk.img\n`)).toThrow(/two checksums/);
  });

  it('take a name for what it is, and no pattern', () => {
    expect(() => find(`${A}  diskximg\n`)).toThrow(/no checksum/);
  });
});

it('tells checksums by their lengths', () => {
  expect(digestOf(A)?.algorithm).toBe('sha256');
  expect(digestOf(LONG)?.algorithm).toBe('sha512');
  expect(digestOf('abcd')).toBeUndefined();
  expect(digestOf(`${A.slice(1)}g`)).toBeUndefined();
});
