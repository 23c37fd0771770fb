import { expect, test } from 'vitest';
import { fuzz } from '../fuzz/engine.ts';
import { snapshotTarget } from '../fuzz/targets/snapshot.ts';

test('snapshots that were changed are refused, or gone on from, in 3000 cases', async () => {
  const failure = await fuzz(snapshotTarget, { iterations: 3000, seed: 4711 });
  expect(failure?.error).toBeUndefined();
}, 120_000);
