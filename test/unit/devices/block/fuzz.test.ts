import { afterAll, test } from 'vitest';
import { fuzz } from '../../../fuzz/engine.ts';
import { blockTarget, closeBlockHosts } from '../../../fuzz/targets/block.ts';

afterAll(closeBlockHosts);

test('a block device does what its model does, in 1500 cases', async () => {
  const failure = await fuzz(blockTarget, { iterations: 1500, seed: 4711 });
  if (failure !== undefined) throw failure.error;
});
