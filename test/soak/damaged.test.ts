import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootDamaged } from '../guest/damaged.ts';
import { openHost } from '../guest/support.ts';
import type { GuestHost } from '../lab/host.ts';

let host: GuestHost;

beforeAll(async () => {
  host = await openHost();
});
afterAll(async () => {
  await host.close();
});

test('80 damaged kernels and initrds', async () => {
  const tally = await bootDamaged(host, { seed: 2, count: 80, every: 4 });
  console.log('damaged files:', Object.fromEntries(tally));
  expect([...tally.values()].reduce((sum, count) => sum + count, 0)).toBe(80);
});
