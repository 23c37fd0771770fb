/** Random requests, many at a time, against a model of the file: what was written is there, and what was read is it. */
import { constants, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { GuestRam } from '../../src/kvm/memory.ts';
import { IO, type IoEngine } from '../../src/kvm/io-ring.ts';
import { IoVector } from '../../src/kvm/io-vector.ts';
import { ENGINES, ioRings, Listener, pattern, randomBelow } from '../support/io-rings.ts';

const FILE = 2 ** 20;
const MEMORY = 2 ** 21;
const make = ioRings();

type Shape = {
  readonly engine: IoEngine;
  readonly entries: number;
  /** what offsets and lengths are multiples of, in bytes */
  readonly unit: number;
  readonly flags: number;
  readonly batches: number;
  readonly seed: number;
};

async function run({ engine, entries, unit, flags, batches, seed }: Shape): Promise<number> {
  const next = randomBelow(seed);
  const ram = new GuestRam({ ranges: [{ base: 0, size: MEMORY }] });
  const memory = ram.memory.windows[0]!.bytes;
  const ring = make.ring({ engine, entries });
  // two buffers over the halves of memory
  const buffers = [ring.register(memory.subarray(0, MEMORY / 2)), ring.register(memory.subarray(MEMORY / 2))];
  const model = pattern(FILE, seed);
  const { fd, path } = make.file(model, flags);
  const vector = new IoVector();
  let moved = 0;
  for (let batch = 0; batch < batches; batch++) {
    const owner = new Listener();
    const reads: { at: number; pieces: Uint8Array[] }[] = [];
    const lengths: number[] = [];
    // Each request has a piece of the file, and a piece of memory, of its own.
    const share = 1 + next(40);
    const size = Math.floor(FILE / share / unit) * unit;
    let free = 0;
    for (let i = 0; i < share; i++) {
      const operation = ([IO.read, IO.write, IO.read, IO.write, IO.punch, IO.zero] as const)[next(6)]!;
      const at = i * size + next(size / unit) * unit;
      const length = Math.max(unit, next(((i + 1) * size - at) / unit) * unit);
      vector.clear();
      const pieces: Uint8Array[] = [];
      if (operation === IO.read || operation === IO.write) {
        for (let left = length; left > 0;) {
          const here = Math.min(left, unit * (1 + next(unit === 1 ? 2000 : 32)));
          const buffer = free + here <= MEMORY / 2 ? 0 : 1;
          if (buffer === 1 && free < MEMORY / 2) free = MEMORY / 2;
          vector.add(buffers[buffer]!, free - (buffer * MEMORY) / 2, here);
          pieces.push(memory.subarray(free, free + here));
          free += here;
          left -= here;
        }
      }
      apply(operation, at, length, pieces);
      ring.queue(operation, fd, at, length, vector, owner, i);
      lengths.push(operation === IO.punch || operation === IO.zero ? 0 : length);
    }
    ring.submit();
    if (batch % 2) ring.drain();
    else await owner.count(share);
    expect(Array.from(lengths, (_, i) => owner.results.get(i))).toEqual(lengths);
    for (const { at, pieces } of reads) {
      const got = Buffer.concat(pieces);
      expect(got.equals(model.subarray(at, at + got.length))).toBe(true);
      moved += got.length;
    }

    function apply(operation: number, at: number, length: number, pieces: Uint8Array[]): void {
      if (operation === IO.read) {
        for (const piece of pieces) piece.fill(0xee);
        reads.push({ at, pieces });
      } else if (operation === IO.write) {
        let to = at;
        for (const piece of pieces) {
          const value = next(256);
          for (let i = 0; i < piece.length; i++) piece[i] = value + i * 3;
          model.set(piece, to);
          to += piece.length;
        }
      } else {
        model.fill(0, at, at + length);
      }
    }
  }
  expect(readFileSync(path).equals(model)).toBe(true);
  ring.close();
  ram.close();
  return moved;
}

describe.each(ENGINES)('%s', (engine) => {
  test.each([
    ['bytes', 1, 0],
    ['sectors', 512, 0],
    ['whole blocks, direct', 4096, constants.O_DIRECT],
  ])('reads and writes of %s agree with the model', async (_, unit, flags) => {
    const moved = await run({ engine, entries: 64, unit, flags, batches: 60, seed: unit + 1 });
    expect(moved).toBeGreaterThan(2 ** 22);
  });

  test('also where most requests wait for room', async () => {
    await run({ engine, entries: 3, unit: 1, flags: 0, batches: 40, seed: 99 });
  });
});
