/** The program that seeds a guest's kernel, run by the kernel of this host. That it has an effect is seen in guests. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SEED_SCRIPT, seedProgram } from '../../../../src/manager/vmm/entropy.ts';

const EPERM = 1;
const ENOENT = 2;
const isRoot = process.getuid?.() === 0;
if (!isRoot) console.warn('skipped: seeding the kernel of this host, which takes root');

const program = seedProgram(new Uint8Array(32).fill(7));
let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-entropy-'));
  chmodSync(folder, 0o755);
  file = join(folder, 'seed');
  writeFileSync(file, program, { mode: 0o755 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.runIf(isRoot)('a kernel takes the seed', () => {
  expect(spawnSync(file, { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
});

test.runIf(isRoot)('the script makes a program of its input, and leaves nothing', () => {
  const root = join(folder, 'root');
  for (const name of ['run', 'dev/shm']) mkdirSync(join(root, name), { recursive: true });
  // Files in memory are not run there, as with Debian's /run.
  const around = `set -e
    for name in bin lib lib64 usr; do mkdir -p ${root}/$name; mount --bind /$name ${root}/$name; done
    touch ${root}/dev/null ${root}/dev/random
    mount --bind /dev/null ${root}/dev/null
    mount --bind /dev/random ${root}/dev/random
    mount -t tmpfs -o noexec tmpfs ${root}/dev/shm
    mkdir ${root}/tmp
    set +e
    chroot ${root} /bin/sh -c "$SCRIPT"
    status=$?
    find ${root}/dev/shm ${root}/run ${root}/tmp ${root} -maxdepth 1 -name '.tsvm*'
    exit $status`;
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', around];
  const env = { ...process.env, SCRIPT: SEED_SCRIPT };
  expect(spawnSync('unshare', args, { input: program, encoding: 'utf8', env })).toMatchObject({
    status: 0,
    stdout: '',
    stderr: '',
  });
});

test.runIf(isRoot)('an error is the exit code', () => {
  const dropped = spawnSync('setpriv', ['--reuid', '65534', '--regid', '65534', '--clear-groups', file]);
  expect(dropped.status).toBe(EPERM);
  const elsewhere = spawnSync('chroot', [folder, '/seed']);
  expect(elsewhere.status).toBe(ENOENT);
});
