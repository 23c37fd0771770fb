import { expect, test } from 'vitest';
import { PageRanges } from '../../../src/kvm/page-ranges.ts';

const list = (ranges: PageRanges): (readonly [number, number])[] =>
  Array.from({ length: ranges.count }, (_, i) => [ranges.address(i), ranges.length(i)] as const);

test('ranges that follow on each other are one', () => {
  const ranges = new PageRanges();
  for (const at of [0x1000, 0x2000, 0x4000, 0x5000, 0x3000]) ranges.add(at, 0x1000);
  expect(list(ranges)).toEqual([
    [0x1000, 0x2000],
    [0x4000, 0x2000],
    [0x3000, 0x1000],
  ]);
  expect(ranges.byteLength).toBe(0x5000);
});

test('empty ranges and negative ones are left out', () => {
  const ranges = new PageRanges();
  ranges.add(0x1000, 0);
  ranges.add(0x1000, -1);
  expect([ranges.count, ranges.byteLength]).toEqual([0, 0]);
});

test('a list grows, and begins anew', () => {
  const ranges = new PageRanges();
  for (let i = 0; i < 1000; i++) ranges.add(0x2000 * i, 0x1000);
  expect(list(ranges)).toEqual(Array.from({ length: 1000 }, (_, i) => [0x2000 * i, 0x1000]));
  ranges.clear();
  ranges.add(2 ** 40, 0x1000);
  expect(list(ranges)).toEqual([[2 ** 40, 0x1000]]);
});
