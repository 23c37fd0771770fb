/** What a guest runs when it goes on from a snapshot, run by the kernel of this host. That it has an effect is seen in guests. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  CLOCK_FAILED,
  WAKE_SCRIPT,
  wakeInput,
  wakeProgram,
} from '../../../../src/manager/vmm/wake-program.ts';

const EPERM = 1;
const ENOENT = 2;
const isRoot = process.getuid?.() === 0;
if (!isRoot) console.warn('skipped: seeding the kernel of this host, which takes root');

const CAP_SYS_TIME = 25n;
const capabilities = BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]!}`);
const maySetClock = (capabilities & (1n << CAP_SYS_TIME)) !== 0n;
if (!maySetClock) console.warn('skipped: moving the clock of this host, which takes CAP_SYS_TIME');

const seed = new Uint8Array(32).fill(7);
const program = wakeProgram(seed);
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-wake-'));
  chmodSync(folder, 0o755);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function write(content: Uint8Array): string {
  const file = join(folder, 'program');
  writeFileSync(file, content, { mode: 0o755 });
  return file;
}

test.runIf(isRoot)('a kernel takes the seed, and the file is gone', () => {
  const file = write(program);
  expect(spawnSync(file, { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
  expect(existsSync(file)).toBe(false);
});

// The host's own, there and back, by less than others notice: no namespace has one.
test.runIf(maySetClock).each([1_000_000n, -1_000_000n])('a clock is moved by %d ns', (offset) => {
  expect(spawnSync(write(wakeProgram(seed, offset))).status).toBe(0);
});

test.runIf(isRoot).each(['sh', 'bash'])(
  'the script of %s makes a program of its input, and leaves nothing',
  (shell) => {
    const root = join(folder, `root-${shell}`);
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
    chroot ${root} ${shell} -c "$SCRIPT"'exit $woken'
    status=$?
    find ${root}/dev/shm ${root}/run ${root}/tmp ${root} -maxdepth 1 -name '.tsvm*'
    exit $status`;
    const args = ['--mount', '--propagation', 'private', 'sh', '-c', around];
    const env = { ...process.env, SCRIPT: WAKE_SCRIPT };
    expect(spawnSync('unshare', args, { input: wakeInput(program), encoding: 'utf8', env })).toMatchObject({
      status: 0,
      stdout: '',
      stderr: '',
    });
  },
);

test.runIf(isRoot)('an error is the exit code', () => {
  const nobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
  expect(spawnSync('setpriv', [...nobody, write(program)]).status).toBe(EPERM);
  expect(spawnSync('setpriv', [...nobody, write(wakeProgram(seed, 1n))]).status).toBe(EPERM | CLOCK_FAILED);
  write(program);
  expect(spawnSync('chroot', [folder, '/program']).status).toBe(ENOENT);
});
