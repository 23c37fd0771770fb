import { describe, expect, it } from 'vitest';
import { MacTable } from '../../../../src/net/vmnet/mac-table.ts';

const HIGH = 0x5254;

describe('a table of MAC addresses', () => {
  it('knows where an address was heard last', () => {
    const table = new MacTable();
    table.learn(HIGH, 1, 7, 0);
    expect(table.find(HIGH, 1, 1)).toBe(7);
    table.learn(HIGH, 1, 8, 2);
    expect(table.find(HIGH, 1, 3)).toBe(8);
    expect(table.find(HIGH, 2, 3)).toBeUndefined();
    expect(table.size).toBe(1);
  });

  it('forgets what was not heard for 300 s', () => {
    const table = new MacTable();
    table.learn(HIGH, 1, 7, 0);
    expect(table.find(HIGH, 1, 300)).toBe(7);
    expect(table.find(HIGH, 1, 301)).toBeUndefined();
    expect(table.size).toBe(0);
  });

  it('forgets a port with all that was behind it', () => {
    const table = new MacTable();
    table.learn(HIGH, 1, 7, 0);
    table.learn(HIGH, 2, 7, 0);
    table.learn(HIGH, 3, 8, 0);
    table.fix(HIGH, 4, 7);
    table.forget(7);
    expect([1, 2, 3, 4].map((low) => table.find(HIGH, low, 0))).toEqual([undefined, undefined, 8, undefined]);
  });

  it('keeps a fixed address where it is', () => {
    const table = new MacTable();
    table.fix(HIGH, 1, 7);
    expect(table.learn(HIGH, 1, 7, 0)).toBe(true);
    expect(table.learn(HIGH, 1, 8, 0)).toBe(false);
    expect(table.find(HIGH, 1, 10_000)).toBe(7);
  });

  it.each([
    ['a group', 0x0100, 1],
    ['all', 0xffff, 0xffffffff],
    ['nobody', 0, 0],
  ])('does not learn the address of %s', (_, high, low) => {
    const table = new MacTable();
    expect(table.learn(high, low, 7, 0)).toBe(false);
    expect(table.size).toBe(0);
  });

  it('gives one port no more than 256 places, and none of those of others', () => {
    const table = new MacTable();
    for (let low = 0; low < 100; low++) table.learn(HIGH, low, 1, 0);
    for (let low = 0; low < 100_000; low++) table.learn(0x0200, low, 2, 1);
    expect(table.size).toBeLessThanOrEqual(356);
    // Some of the 256 may lie where others are full; a place that is taken has an older address.
    const kept = Array.from({ length: 100 }, (_, low) => table.find(HIGH, low, 1)).filter(
      (port) => port === 1,
    );
    expect(kept).toHaveLength(100);
  });

  it('stays within its places, whatever comes from how many ports', () => {
    const table = new MacTable();
    for (let port = 0; port < 64; port++)
      for (let i = 0; i < 300; i++) table.learn(HIGH, port * 4096 + i, port, i);
    expect(table.size).toBeLessThanOrEqual(4096);
    expect(table.size).toBeGreaterThan(3000);
  });
});
