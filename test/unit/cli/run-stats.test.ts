import { expect, it } from 'vitest';
import { formatStats } from '../../../src/cli/run-stats.ts';

it('adds up the regions of a device, leaves out what was not accessed, and has most waits first', () => {
  const text = formatStats({
    accessCounts: () => [
      { device: 'serial', reads: 5, writes: 7, waits: 1 },
      { device: 'rtc', reads: 0, writes: 0, waits: 0 },
      { device: 'rng', reads: 2, writes: 1, waits: 2 },
      { device: 'rng', reads: 1, writes: 0, waits: 1 },
    ],
    exitCounts: () =>
      new Map([
        ['mmio', 4],
        ['io', 12],
      ]),
  });
  expect(text.split('\n').map((line) => line.split(/ +/))).toEqual([
    ['device', 'reads', 'writes', 'waits'],
    ['rng', '3', '1', '3'],
    ['serial', '5', '7', '1'],
    ['in', 'all', '8', '8', '4'],
    ['exits:', 'io', '12,', 'mmio', '4'],
  ]);
});
