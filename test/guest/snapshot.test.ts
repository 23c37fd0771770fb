import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { snapshotRounds } from './snapshot-guest.ts';
import { cloudKernel, openHost } from './support.ts';

// A stock Linux under load is saved and goes on, and goes on from what was saved. The many rounds are test/soak's.

let host: GuestHost;
let kernel: Kernel;

beforeAll(async () => {
  host = await openHost();
  kernel = await cloudKernel();
});
afterAll(async () => {
  await host.close();
});

test.each([
  { transport: 'pci', cpus: 1, live: true, incremental: false, rounds: 1 },
  { transport: 'mmio', cpus: 2, live: false, incremental: true, rounds: 2 },
] as const)('over $transport, $cpus vCPUs, live: $live, incremental: $incremental', async (options) => {
  const seen = await snapshotRounds(host, kernel, options, 400_000);
  expect(seen.error, seen.console).toBeUndefined();
  expect(seen.console).not.toMatch(/^error/m);
  expect(seen.log).toBe('');
  expect(seen.stops).toHaveLength(options.rounds);
  if (options.incremental) expect(seen.written[1]).toBeLessThan(seen.written[0]!);
});
