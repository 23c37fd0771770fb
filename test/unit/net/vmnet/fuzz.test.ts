import { test } from 'vitest';
import { fuzz } from '../../../fuzz/engine.ts';
import { vmnetTarget } from '../../../fuzz/targets/vmnet.ts';

test('the services of a network answer hostile messages within bounds, in 500 cases of 24 frames', async () => {
  const failure = await fuzz(vmnetTarget, { iterations: 500, seed: 4711 });
  if (failure !== undefined) throw failure.error;
});
