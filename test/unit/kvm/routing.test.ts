import { describe, expect, test } from 'vitest';
import { IrqRouting } from '../../../src/kvm/routing.ts';

type Route = { gsi: number; type: number; words: number[] };

function decode(bytes: Uint8Array): Route[] {
  const view = new DataView(bytes.buffer);
  const count = view.getUint32(0, true);
  expect(bytes).toHaveLength(8 + 48 * count);
  return Array.from({ length: count }, (_, i) => {
    const at = 8 + 48 * i;
    const word = (n: number) => view.getUint32(at + 4 * n, true);
    expect([word(2), word(3)]).toEqual([0, 0]);
    return { gsi: word(0), type: word(1), words: [word(4), word(5), word(6)] };
  });
}

function routing() {
  const tables: Route[][] = [];
  return { routing: new IrqRouting((table) => tables.push(decode(table))), tables };
}

const message = (data: number) => ({ addressLow: 0xfee01000, addressHigh: 1, data });

describe('the routes of the chips', () => {
  const routes = decode(new IrqRouting(() => undefined).encode());
  const of = (gsi: number) =>
    routes.filter((route) => route.gsi === gsi).map(({ words }) => words.slice(0, 2));

  test('GSIs 0 to 15 go to their PIC and to the pin of their number', () => {
    expect(of(4)).toEqual([
      [0, 4],
      [2, 4],
    ]);
    expect(of(12)).toEqual([
      [1, 4],
      [2, 12],
    ]);
  });

  test('the timer goes to pin 2, where nothing else goes', () => {
    expect(of(0)).toEqual([
      [0, 0],
      [2, 2],
    ]);
    expect(of(2)).toEqual([[0, 2]]);
    expect(routes.filter(({ words }) => words[0] === 2 && words[1] === 2)).toHaveLength(1);
  });

  test('GSIs 16 to 23 go to the I/O APIC alone', () => {
    for (let gsi = 16; gsi < 24; gsi++) expect(of(gsi)).toEqual([[2, gsi]]);
    expect(Math.max(...routes.map(({ gsi }) => gsi))).toBe(23);
  });
});

describe('messages', () => {
  test('take the GSIs from 24 on, and the lowest that is free', () => {
    const { routing: it, tables } = routing();
    expect([1, 2, 3].map((data) => it.allocate(message(data)))).toEqual([24, 25, 26]);
    it.free(25);
    expect(it.allocate(message(4))).toBe(25);
    expect(tables.at(-1)!.filter(({ gsi }) => gsi >= 24)).toEqual([
      { gsi: 24, type: 2, words: [0xfee01000, 1, 1] },
      { gsi: 26, type: 2, words: [0xfee01000, 1, 3] },
      { gsi: 25, type: 2, words: [0xfee01000, 1, 4] },
    ]);
  });

  test('the kernel gets a table for each change, and for nothing else', () => {
    const { routing: it, tables } = routing();
    const gsi = it.allocate(message(1));
    it.update(gsi, message(1));
    expect(tables).toHaveLength(1);
    it.update(gsi, message(2));
    expect(tables).toHaveLength(2);
    it.update(gsi, { ...message(2), addressHigh: 0 });
    expect(tables).toHaveLength(3);
    it.free(gsi);
    it.free(gsi);
    expect(tables).toHaveLength(4);
    expect(tables[3]).toEqual(decode(new IrqRouting(() => undefined).encode()));
  });

  test('no more than the kernel takes in one table, and one that is freed can be had again', () => {
    const sizes: number[] = [];
    const it = new IrqRouting((table) => sizes.push((table.length - 8) / 48));
    let gsi = 0;
    expect(() => {
      for (let i = 0; i < 5000; i++) gsi = it.allocate(message(i));
    }).toThrow(new RangeError('the VM has no interrupt route left'));
    expect(Math.max(...sizes)).toBe(4096);
    it.free(gsi);
    expect(it.allocate(message(1))).toBe(gsi);
  });
});
