import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fuzz, readArtifact, type FuzzTarget } from '../../fuzz/engine.ts';
import { Random } from '../../fuzz/random.ts';
import { managerTarget } from '../../fuzz/targets/manager.ts';
import { queueTarget } from '../../fuzz/targets/queue.ts';

describe('the fuzzer', () => {
  let artifacts: string;
  beforeEach(() => (artifacts = mkdtempSync(join(tmpdir(), 'tsvm-fuzz-'))));
  afterEach(() => rmSync(artifacts, { recursive: true, force: true }));

  /** Fails where the first number ends in ten zero bits. */
  const brittle: FuzzTarget = {
    name: 'brittle',
    run: (random) => {
      if (random.word() % 1024 === 0) throw new Error('broken');
    },
  };

  test('finds a case that fails and keeps what it takes to run it again', async () => {
    const failure = await fuzz(brittle, { iterations: 20_000, seed: 7, artifacts });
    expect(failure?.artifact && existsSync(failure.artifact)).toBe(true);
    const { target, seed } = readArtifact(failure!.artifact!);
    expect(target).toBe('brittle');
    expect(() => brittle.run(new Random(seed))).toThrow('broken');
  });

  test('makes the same cases from the same seed', async () => {
    const runs = [1, 1, 2].map(async (seed) => {
      const words: number[] = [];
      const target = { name: 'record', run: (random: Random) => void words.push(random.word()) };
      await fuzz(target, { iterations: 20, seed });
      return words.join();
    });
    const [first, again, other] = await Promise.all(runs);
    expect(again).toBe(first);
    expect(other).not.toBe(first);
  });

  test('reports a target that fails later', async () => {
    const late: FuzzTarget = { name: 'late', run: () => Promise.reject(new Error('late')) };
    expect((await fuzz(late, { iterations: 1, seed: 1 }))?.error).toEqual(new Error('late'));
  });
});

test('the virtqueue does what its model does, in 3000 cases', async () => {
  const failure = await fuzz(queueTarget, { iterations: 3000, seed: 4711 });
  if (failure !== undefined) throw failure.error;
});

test('the manager takes or refuses what it is told, within its data directory, in 150 cases', async () => {
  const failure = await fuzz(managerTarget, { iterations: 150, seed: 4711 });
  if (failure !== undefined) throw failure.error;
}, 60_000);
