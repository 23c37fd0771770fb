import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Kernel } from '../../images/debian/kernel.ts';
import { snapshotRounds } from '../guest/snapshot-guest.ts';
import { cloudKernel, openHost } from '../guest/support.ts';
import type { GuestHost } from '../lab/host.ts';

// As test/guest/snapshot.test.ts, for many rounds (`TSVM_SNAPSHOT_ROUNDS`).

const ROUNDS = Number(process.env['TSVM_SNAPSHOT_ROUNDS'] ?? 50);

let host: GuestHost;
let kernel: Kernel;

beforeAll(async () => {
  host = await openHost();
  kernel = await cloudKernel();
});
afterAll(async () => {
  await host.close();
});

const cases = (['pci', 'mmio'] as const).flatMap((transport) =>
  [1, 4].map((cpus) => ({ transport, cpus, live: cpus === 4, incremental: transport === 'mmio' })),
);

test.each(cases)(
  'over $transport, $cpus vCPUs, live: $live, incremental: $incremental',
  async (options) => {
    const seen = await snapshotRounds(host, kernel, { rounds: ROUNDS, ...options }, ROUNDS * 120_000);
    console.log(
      `${options.transport}, ${options.cpus} vCPUs: stood still for ${stopped(seen.stops)}; ` +
        `memory written: ${seen.written.map((bytes) => `${Math.round(bytes / 2 ** 20)} MiB`).join(', ')}`,
    );
    expect(seen.error, seen.console).toBeUndefined();
    expect(seen.log).toBe('');
    expect(seen.stops).toHaveLength(ROUNDS);
  },
  ROUNDS * 120_000,
);

function stopped(stops: readonly number[]): string {
  const sorted = [...stops].sort((a, b) => a - b);
  const at = (share: number): string => `${Math.round(sorted[Math.floor((sorted.length - 1) * share)] ?? 0)}`;
  return `${at(0)}/${at(0.5)}/${at(1)} ms (least, median, most)`;
}
