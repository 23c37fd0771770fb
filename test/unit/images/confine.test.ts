import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../../../images/debian/cache.ts';

const SCRIPT = join(packageRoot(), 'images/debian/system/confine.sh');
const TICK = 'while :; do echo tick; sleep 0.05; done';
const hasNamespaces = spawnSync('unshare', ['--mount', '--pid', '--fork', 'true']).status === 0;

const confined = (...command: string[]) =>
  spawn('sh', [SCRIPT, ...command], { stdio: ['pipe', 'pipe', 'inherit'] });

/** Its output ends when the last process that could write it has ended. */
async function endsWithItsStarter(child: ReturnType<typeof confined>): Promise<void> {
  await once(child.stdout, 'data');
  child.stdin.end();
  child.stdout.resume();
  await once(child, 'close');
}

describe('confine.sh', () => {
  it.each([0, 3])('ends with the status %d of its command', async (status) => {
    const child = confined('sh', '-c', `exit ${status}`);
    expect(await once(child, 'close')).toEqual([status, null]);
  });

  it('ends its command with whoever started it', async () => {
    await endsWithItsStarter(confined('sh', '-c', TICK));
  });

  it.runIf(hasNamespaces)('ends what the command started, also in a session of its own', async () => {
    await endsWithItsStarter(confined('sh', '-c', `setsid sh -c '${TICK}' & wait`));
  });
});
