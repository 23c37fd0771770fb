/** The jail of a running VM's process, as the kernel sees it. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { native } from '../../src/kvm/native.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

type Info = {
  readonly pid: number;
  readonly jail: unknown;
  readonly settings: { readonly vm: { readonly jail: string } };
};

const info = async (name: string): Promise<Info> => JSON.parse(await home.ok('info', '--json', name)) as Info;

const vmFolder = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);
const logOf = (name: string): string => readFileSync(join(vmFolder(name), 'log/tsvm.log'), 'utf8');

/** A field of /proc/PID/status for each thread. */
function ofThreads(pid: number, field: string): Set<string | undefined> {
  const pattern = new RegExp(`^${field}:\\s*(\\S+)$`, 'm');
  return new Set(
    readdirSync(`/proc/${pid}/task`).map(
      (thread) => pattern.exec(readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'))?.[1],
    ),
  );
}

function limitOf(pid: number, name: string): string | undefined {
  const line = readFileSync(`/proc/${pid}/limits`, 'utf8')
    .split('\n')
    .find((each) => each.startsWith(name));
  return line?.slice(name.length).trim().replaceAll(/\s+/g, ' ');
}

const abi = native().jail.landlockAbi();

test('a VM runs in jail, and says so', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  const { pid, jail } = await info('web');
  expect(jail).toEqual({
    landlock: Math.max(abi, 0),
    seccomp: true,
    openFiles: 4096,
    unavailable: abi > 0 ? [] : [expect.stringMatching(/^Landlock unavailable because /)],
  });
  expect(logOf('web')).toMatch(/ jail: .*seccomp filter, no new privileges, 4096 open files/);
  expect(await home.ok('info', 'web')).toContain('seccomp filter');

  for (const [field, value] of [
    ['NoNewPrivs', '1'],
    ['Seccomp', '2'],
    ['Umask', '0077'],
  ] as const)
    expect([field, ofThreads(pid, field)]).toEqual([field, new Set([value])]);
  expect(limitOf(pid, 'Max core file size')).toBe('0 0 bytes');
  expect(limitOf(pid, 'Max open files')).toBe('4096 4096 files');
  expect(limitOf(pid, 'Max realtime priority')).toBe('0 0');
  // proc(5), /proc/PID/stat: session is the 6th field.
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  expect(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]).toBe(String(pid));
});

test('without a jail a VM has nothing of it, once or always', async () => {
  await home.create('web');
  await home.ok('start', '--jail', 'off', 'web');
  const { pid, jail, settings } = await info('web');
  expect([jail, settings.vm.jail]).toEqual(['off', 'on']);
  expect(ofThreads(pid, 'NoNewPrivs')).toEqual(new Set(['0']));
  expect(ofThreads(pid, 'Seccomp')).toEqual(ofThreads(process.pid, 'Seccomp'));
  expect(logOf('web')).toContain(' jail: off');

  await home.ok('restart', 'web');
  expect((await info('web')).jail).toMatchObject({ seccomp: true });

  await home.create('free', '--jail', 'off');
  await home.ok('start', 'free');
  expect((await info('free')).jail).toBe('off');
  const { code, stderr } = await home.tsvm('start', '--jail', 'maybe', 'web');
  expect([code, stderr]).toEqual([2, expect.stringContaining('--jail')]);
});

test('a VM in jail has its disks, what is below them and its shares, and more descriptors for those', async () => {
  const shared = join(home.folder, 'shared');
  mkdirSync(shared);
  const data = join(home.folder, 'data.raw');
  writeFileSync(data, Buffer.alloc(1 << 20));
  await home.create('web', '--share', `${shared}:/mnt`);
  const ini = join(vmFolder('web'), 'vm.ini');
  writeFileSync(ini, `${readFileSync(ini, 'utf8')}\n[disk.1]\nfile = ${data}\nformat = raw\n`);
  await home.ok('start', 'web');
  const { pid, jail } = await info('web');
  expect(jail).toMatchObject({ seccomp: true });
  expect(Number(limitOf(pid, 'Max open files')?.split(' ')[0])).toBeGreaterThanOrEqual(4096);
  const open = readdirSync(`/proc/${pid}/fd`).length;
  expect(open).toBeGreaterThan(10);
  expect(logOf('web')).not.toMatch(/EACCES|EPERM|ENOSYS/);
  await home.ok('set', '--disk', '8M', 'web');
  await home.ok('stop', 'web');
  expect(existsSync(join(vmFolder('web'), 'run'))).toBe(false);
});
