import { expect, test } from 'vitest';
import { fuzz } from '../../../fuzz/engine.ts';
import { vsockTarget } from '../../../fuzz/targets/vsock.ts';

test('guest and host understand each other in 500 cases, whatever the driver does', async () => {
  const failure = await fuzz(vsockTarget, { iterations: 500, seed: 8086 });
  if (failure !== undefined) throw failure.error;
  expect(failure).toBeUndefined();
}, 60_000);
