import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GuestHost } from '../lab/host.ts';
import { bootDamaged } from './damaged.ts';
import { openHost } from './support.ts';

let host: GuestHost;

beforeAll(async () => {
  host = await openHost();
});
afterAll(async () => {
  await host.close();
});

/** The long form is test/soak/damaged.test.ts. */
test('damaged kernels and initrds are refused in one line, or run, and never harm tsvm', async () => {
  const tally = await bootDamaged(host, { seed: 1, count: 16, every: 19 });
  expect([...tally.values()].reduce((sum, count) => sum + count, 0)).toBe(16);
  expect(tally.get('refused') ?? 0).toBeGreaterThan(0);
});
