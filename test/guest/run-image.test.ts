/** `tsvm run IMAGE -- COMMAND` in a guest that has nothing but its agent; the same by the library. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import type { ExecOptions, ExecResult } from '../lab/commands.ts';
import type { GuestHost } from '../lab/host.ts';
import { agentInitramfs } from '../support/agent-guest.ts';
import { cloudKernel, openHost, TSVM } from './support.ts';

/** What a guest does beside its agent for two seconds. */
const BUSY = `
( read -r up _ < /proc/uptime; end=$((\${up%.*} + 2))
  while read -r up _ < /proc/uptime; [ \${up%.*} -lt $end ]; do :; done
  : > /run/up ) &
`;

/** A boot in an emulated host on a busy machine takes minutes. */
const LIMIT_MS = 280_000;

let host: GuestHost;
let home: string;
let guest: readonly string[];

beforeAll(async () => {
  host = await openHost();
  home = join(host.scratch, 'run-home');
  const kernel = await cloudKernel();
  const initrd = await agentInitramfs(kernel, { setUp: BUSY });
  const disk = join(home, 'disk.raw');
  await host.exec(`mkdir -p '${home}' && truncate -s 1M '${disk}'`);
  guest = [disk, '--kernel', kernel.vmlinuz, '--initrd', initrd, '--cmdline', 'console=ttyS0 quiet'];
});
afterAll(async () => {
  await host.exec(`rm -rf '${home}'`);
  await host.close();
});

function run(
  args: readonly string[],
  command: readonly string[],
  options: ExecOptions = {},
): Promise<ExecResult> {
  const words = ['run', ...guest, '--mem', '256M', '--net', 'none', ...args, '--', ...command];
  const argv = ['env', `TSVM_HOME=${home}/data`, 'node', TSVM, ...words];
  return host.exec(argv, { timeoutMs: LIMIT_MS, ...options });
}

/** Folders of VMs, and processes that work for them. */
const left = async (): Promise<string> =>
  (await host.exec(['ls', '-A', `${home}/data/vms`])).stdout +
  (await host.exec(['pgrep', '-fa', `(vm-process|tsvm-keeper).*${home}`])).stdout;

/** Names of the phases that the line of JSON at the end has. */
const phasesIn = (stderr: string): string[] =>
  Object.keys(JSON.parse(stderr.trim().split('\n').at(-1)!) as object);

it('gives the command streams and arguments as they are, and its exit code back', async () => {
  const script = 'cat; echo "<$1>" >&2; exit 7';
  const result = await run(['-i', '--timings'], ['sh', '-c', script, 'sh', '--keep  *'], {
    stdin: 'typed\n',
  });
  expect(result).toMatchObject({ code: 7, stdout: 'typed\n' });
  expect(result.stderr).toContain('<--keep  *>\n');
  expect(result.stderr).toMatch(
    /^tsvm: create \d+ ms, vmm \d+ ms, kernel \d+ ms, init \d+ ms, agent \d+ ms, command \d+ ms, cleanup \d+ ms$/m,
  );
  expect(await left()).toBe('');
});

it('tells where the time went as JSON, too', async () => {
  const { stdout, stderr } = await run(['--cold', '--timings', '--json'], ['echo', 'out']);
  expect(stdout).toBe('out\n');
  expect(phasesIn(stderr)).toEqual(['create', 'vmm', 'kernel', 'init', 'agent', 'command', 'cleanup']);
});

it('goes on from where one of its kind had come to rest, as another machine, without what ran there', async () => {
  // The first test's was the first of its kind.
  const script = `cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/uuid /proc/sys/kernel/hostname
    ls /run/up /run/mark; : > /run/mark; echo now $(date +%s)`;
  const clock = async (): Promise<number> => Number((await host.exec(['date', '+%s'])).stdout);
  const seen = new Set<string>();
  for (let i = 0; i < 3; i++) {
    const before = await clock();
    const { stdout, stderr } = await run(['--timings', '--json'], ['sh', '-c', script]);
    expect(stderr).toContain('/run/mark: No such file');
    expect(phasesIn(stderr)).toEqual(['create', 'vmm', 'agent', 'wake', 'command', 'cleanup']);
    expect(stdout).toContain('/run/up\n');
    const now = Number(/^now (\d+)$/m.exec(stdout)?.[1]);
    expect(now).toBeGreaterThanOrEqual(before);
    expect(now).toBeLessThanOrEqual(await clock());
    for (const line of stdout.trim().split('\n')) seen.add(line);
  }
  expect([...seen].filter((line) => /^run-[0-9a-f]{8}$/.test(line))).toHaveLength(3);
  expect([...seen].filter((line) => /^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(line))).toHaveLength(6);
  expect(await left()).toBe('');
});

it('has all that its command says with a slow reader, while its guest goes on', async () => {
  const argv = (...words: string[]): string =>
    ['env', `TSVM_HOME=${home}/data`, 'node', TSVM, ...words].map((word) => `'${word}'`).join(' ');
  const run = argv(
    'run',
    ...guest,
    '--mem',
    '256M',
    '--net',
    'none',
    '--name',
    'slow',
    '--',
    'sh',
    '-c',
    'head -c 400000 /dev/zero',
  );
  const other = argv('exec', 'slow', '--', 'echo', 'goes on');
  const { code, stdout } = await host.exec(
    ['bash', '-c', `set -o pipefail; ${run} | { head -c 1 | wc -c; ${other}; wc -c; }`],
    {
      timeoutMs: LIMIT_MS,
    },
  );
  expect([code, stdout]).toEqual([0, '1\ngoes on\n399999\n']);
  expect(await left()).toBe('');
});

it('boots where something else is asked for, and where nothing is kept any more', async () => {
  const warm = async (): Promise<number> =>
    (await host.exec(['ls', `${home}/data/warm`])).stdout.trim().split('\n').length;
  const before = await warm();
  expect(phasesIn((await run(['--mem', '192M', '--timings', '--json'], ['true'])).stderr)).toContain(
    'kernel',
  );
  expect(await warm()).toBe(before + 1);
  const pruned = await host.exec(['env', `TSVM_HOME=${home}/data`, 'node', TSVM, 'image', 'prune']);
  expect(pruned).toMatchObject({ code: 0, stdout: expect.stringMatching(/ are free again\n$/) as string });
  expect((await host.exec(['ls', '-A', `${home}/data/warm`])).stdout).toBe('');
});

it('boots where what was kept is damaged', async () => {
  const args = ['--mem', '128M', '--timings', '--json'];
  expect(phasesIn((await run(args, ['true'])).stderr)).toContain('kernel');
  const damage = `for state in '${home}'/data/warm/*/state.json; do rm -f "$state"; echo broken > "$state"; done`;
  expect(await host.exec(damage)).toMatchObject({ code: 0 });
  const { code, stdout, stderr } = await run(args, ['echo', 'out']);
  expect([code, stdout]).toEqual([0, 'out\n']);
  expect(phasesIn(stderr)).toContain('kernel');
  expect(await left()).toBe('');
});

it('opens a shell where there is no command', async () => {
  expect(await run([], [], { stdin: 'uname -s; exit 3\n' })).toMatchObject({ code: 3, stdout: 'Linux\n' });
  expect(await left()).toBe('');
});

it('is one call of the library', async () => {
  const [disk = '', , kernel = '', , initrd = '', , cmdline = ''] = guest;
  const base = { disk: { path: disk, format: 'raw' }, kernel, initrd, cmdline, networks: ['none'] };
  const program = `
    import { Vm } from ${JSON.stringify(join(packageRoot(), 'dist/index.js'))};
    const { exitCode, stdout } = await Vm.run(${JSON.stringify(base)}, 'sh', ['-c', 'echo out; exit 5']);
    console.log(JSON.stringify([exitCode, stdout, Vm.list().length]));`;
  const argv = ['env', `TSVM_HOME=${home}/data`, 'node', '--input-type=module', '-e', program];
  expect(await host.exec(argv, { timeoutMs: LIMIT_MS })).toMatchObject({
    code: 0,
    stdout: '[5,"out\\n",0]\n',
    stderr: '',
  });
  expect(await left()).toBe('');
});
