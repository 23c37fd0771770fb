import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import { bytesSource } from '../../src/boot/source.ts';
import { unpackKernel } from '../../src/boot/unpack.ts';
import type { GuestHost } from '../lab/host.ts';
import { damagedKernels, type DamagedFile } from '../support/damaged-kernels.ts';
import { cloudKernel, initrdOf } from './support.ts';

/** How long a damaged kernel may run before it is stopped, in the guest's own hands by then. */
const LIMIT_MS = 6_000;
const BATCH = 8;

type Outcome = {
  readonly outcome: string;
  readonly error?: string;
  readonly code?: string;
  readonly message: string;
};

/** What a damaged file may come to. All else, a crash or a hang of tsvm above all, is a failure. */
const ALLOWED = ['refused', 'poweroff', 'reboot', 'triple-fault', 'panic', 'stopped', 'error'];

/**
 * Boots damaged files made from Debian's cloud kernel, `every`th of the generator's list up to `count` of them:
 * each is refused with a clear error, or runs and ends or is stopped. Returns how many came to what.
 */
export async function bootDamaged(
  host: GuestHost,
  options: { readonly seed: number; readonly count: number; readonly every: number },
): Promise<Map<string, number>> {
  const kernel = await cloudKernel();
  const initrdPath = await initrdOf({ kernel, script: 'poweroff -f' });
  const bzImage = await readFile(kernel.vmlinuz);
  const { bytes: vmlinux } = await unpackKernel(bytesSource(kernel.vmlinuz, bzImage), true);
  const initrd = await readFile(initrdPath);
  const folder = join(host.shared, 'damaged');
  const tally = new Map<string, number>();
  const damages = damagedKernels({ bzImage, vmlinux, initrd }, options.seed);

  for (let done = 0; done < options.count; done += BATCH) {
    await mkdir(folder, { recursive: true });
    const batch: DamagedFile[] = [];
    const pairs: [string, string][] = [];
    while (batch.length < Math.min(BATCH, options.count - done)) {
      let damage = damages.next().value;
      for (let skip = 1; skip < options.every; skip++) damage = damages.next().value;
      const path = join(folder, String(batch.length));
      await writeFile(path, damage.make());
      pairs.push(damage.of === 'initrd' ? [kernel.vmlinuz, path] : [path, initrdPath]);
      batch.push(damage);
    }
    for (const [i, outcome] of (await bootPairs(host, pairs)).entries()) {
      const what = `${batch[i]!.name}: ${JSON.stringify(outcome)}`;
      expect(ALLOWED, what).toContain(outcome.outcome);
      if (outcome.outcome === 'refused') {
        expect(outcome.error, what).toBe('BootError');
        expect(outcome.message, what).toMatch(/^[^\n]+$/);
      }
      tally.set(outcome.outcome, (tally.get(outcome.outcome) ?? 0) + 1);
    }
    await rm(folder, { recursive: true, force: true });
  }
  return tally;
}

async function bootPairs(host: GuestHost, pairs: readonly (readonly [string, string])[]): Promise<Outcome[]> {
  const program = join(import.meta.dirname, 'programs/boot-files.mjs');
  const library = join(packageRoot(), 'dist/index.js');
  const { code, stdout, stderr } = await host.exec(
    ['node', program, library, String(LIMIT_MS), JSON.stringify(pairs)],
    { timeoutMs: 60_000 + pairs.length * 5 * LIMIT_MS },
  );
  expect(code, stderr).toBe(0);
  const outcomes = stdout.trim().split('\n');
  expect(outcomes).toHaveLength(pairs.length);
  return outcomes.map((line) => JSON.parse(line) as Outcome);
}
