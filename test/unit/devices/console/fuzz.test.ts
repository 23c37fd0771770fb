import { expect, test } from 'vitest';
import { fuzz } from '../../../fuzz/engine.ts';
import { consoleTarget } from '../../../fuzz/targets/console.ts';

test('a console and its hosts understand each other in 500 cases, whatever the driver does', async () => {
  const failure = await fuzz(consoleTarget, { iterations: 500, seed: 5309 });
  if (failure !== undefined) throw failure.error;
  expect(failure).toBeUndefined();
}, 60_000);
