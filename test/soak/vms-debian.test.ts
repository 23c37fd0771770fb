/** The story of VMs that are kept, with a stock Debian: two from one read-only base, by the built command line. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildDebian } from '../../images/debian/system.ts';
import type { GuestHost } from '../lab/host.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';
import { openHost } from '../guest/support.ts';
import { HostTsvm } from '../guest/tsvm.ts';

const BOOT_LIMIT_MS = 900_000;
const STEP_LIMIT_MS = 480_000;
const NAMES = ['one', 'two'] as const;
/** What a healthy boot has nothing of. */
const DEVICE_WARNINGS = /virtio|pci|acpi|\bvd[a-z]\b|hvc|balloon|I\/O error/i;

let host: GuestHost;
let home: string;
let tsvm: HostTsvm;
let base: string;

const sumOf = async (path: string): Promise<string> => (await tsvm.tryShell(`md5sum < '${path}'`)).stdout;

beforeAll(async () => {
  host = await openHost();
  home = join(host.scratch, 'vms-home');
  await host.exec(['mkdir', '-p', home]);
  tsvm = new HostTsvm(host, home, STEP_LIMIT_MS);
  // The VMs find their kernel on their disks; that it is unpacked for them on the host is not what takes time here.
  await unpackAhead((await buildDebian()).kernel);
  base = await host.debianDisk('vms-base.qcow2', 'compressed');
  await host.exec(['chmod', '444', base]);
}, BOOT_LIMIT_MS);

afterAll(async () => {
  await tsvm.run('delete', '--force', ...NAMES);
  await host.exec(`rm -rf '${home}' '${base}'`);
  await host.close();
});

describe('two Debians at once, from one compressed base', () => {
  let sum: string;

  beforeAll(async () => {
    sum = await sumOf(base);
    for (const name of NAMES)
      await tsvm.ok(
        'create',
        base,
        name,
        '--format',
        'qcow2',
        '--mem',
        '1G',
        '--disk',
        '8G',
        '--net',
        'none',
        '--start',
      );
  }, BOOT_LIMIT_MS);

  it(
    'boot the kernels of their disks, with no failed unit and no warning of a device',
    async () => {
      for (const name of NAMES) {
        await tsvm.ok('wait', '--for', 'agent', '--timeout', '450', name);
        expect((await tsvm.run('exec', name, '--', 'systemctl', 'is-system-running', '--wait')).stdout).toBe(
          'running\n',
        );
        expect(await tsvm.ok('exec', name, '--', 'systemctl', '--failed', '--no-legend')).toBe('');
        const warnings = (
          await tsvm.ok('exec', name, '--', 'dmesg', '--level=emerg,alert,crit,err,warn')
        ).split('\n');
        expect(warnings.filter((line) => DEVICE_WARNINGS.test(line))).toEqual([]);
      }
      const rows = JSON.parse(await tsvm.ok('list', '--json')) as {
        name: string;
        state: string;
        memory: number;
      }[];
      expect(rows).toMatchObject(NAMES.map((name) => ({ name, state: 'running', memory: 2 ** 30 })));
    },
    BOOT_LIMIT_MS,
  );

  it(
    'run commands with their streams, exit codes and terminals',
    async () => {
      const [name] = NAMES;
      expect(await tsvm.ok('exec', name, '--', 'uname', '-sr')).toMatch(/^Linux 6\.\d+/);
      const parts = await tsvm.run('exec', name, '--', 'sh', '-c', 'echo out; echo err >&2; exit 7');
      expect(parts).toMatchObject({ code: 7, stdout: 'out\n', stderr: 'err\n' });
      const { stdout, stderr } = await tsvm.tryShell(
        `head -c 3M /dev/urandom > '${home}/data'; md5sum < '${home}/data'
         t exec -i ${name} -- sh -c 'tee /root/piped | md5sum' < '${home}/data'
         t exec ${name} -- cat /root/piped | md5sum`,
      );
      const sums = stdout.trim().split('\n');
      expect([sums.length, new Set(sums).size, stderr]).toEqual([3, 1, '']);
      expect(await tsvm.ok('exec', '-t', name, '--', 'sh', '-c', 'tty; stty size; echo "it\'s"')).toMatch(
        /^\/dev\/pts\/\d+\r\n24 80\r\nit's\r\n$/,
      );
      expect(await tsvm.tryShell(`echo 'id -un; exit 3' | t shell ${name}`)).toMatchObject({
        code: 3,
        stdout: 'root\n',
      });
      const killed = await tsvm.run('exec', '--timeout', '2', name, '--', 'sleep', '1000');
      expect([killed.code, killed.stderr]).toEqual([1, expect.stringContaining('within 2 s')]);
      expect(await tsvm.inGuest(name, 'pgrep -x sleep || echo gone')).toBe('gone\n');
    },
    STEP_LIMIT_MS,
  );

  it(
    'have files and folders copied into them and out of them, and show their console',
    async () => {
      const [name] = NAMES;
      const { stdout, stderr } = await tsvm.tryShell(
        `set -e; cd '${home}'; mkdir -p tree/sub; head -c 2M /dev/urandom > tree/sub/bytes; echo 1 > 'tree/a name'
         ln -s sub/bytes tree/link; chmod 640 tree/sub/bytes; chmod 751 tree/sub; touch -d @1700000000 tree/sub/bytes
         t cp -q tree ${name}:/root/
         t exec ${name} -- sh -c 'cd /root/tree; stat -c "%a %Y %U" sub/bytes; readlink link; md5sum < link'
         md5sum < tree/link
         t cp -q ${name}:/root/tree back; diff -r --no-dereference tree back; stat -c '%a %Y' back/sub/bytes
         t cp -q ${name}:/etc/os-release - | md5sum; t exec ${name} -- cat /etc/os-release | md5sum`,
      );
      const [here, link, first, second, back, copied, original] = stdout.trim().split('\n');
      expect(stderr).toBe('');
      expect([here, link, back]).toEqual(['640 1700000000 root', 'sub/bytes', '640 1700000000']);
      expect([second, original]).toEqual([first, copied]);
      const missing = await tsvm.run('cp', `${name}:/root/nothing`, home);
      expect([missing.code === 0, missing.stderr]).toEqual([false, expect.stringContaining('/root/nothing')]);
      expect(await tsvm.ok('screenshot', name)).toContain('login:');
    },
    STEP_LIMIT_MS,
  );

  it(
    'keep what they write to themselves, over a stop and a start',
    async () => {
      for (const name of NAMES) {
        await tsvm.inGuest(name, `head -c 4M /dev/urandom > /root/data && echo ${name} > /root/name && sync`);
      }
      const sums = await Promise.all(NAMES.map((name) => tsvm.inGuest(name, 'md5sum < /root/data')));
      expect(sums[0]).not.toBe(sums[1]);
      expect(await tsvm.run('stop', '--timeout', '300', ...NAMES)).toMatchObject({ code: 0, stderr: '' });
      expect(await tsvm.ok('list')).toMatch(/one +stopped[^]*two +stopped/);
      for (const name of NAMES) {
        const disk = join(home, 'vms', name, 'root.qcow2');
        expect(await tsvm.ok('disk', 'check', disk)).toContain('nothing is wrong');
      }
      const [name] = NAMES;
      await tsvm.ok('start', name);
      await tsvm.ok('wait', '--for', 'agent', '--timeout', '450', name);
      expect(await tsvm.inGuest(name, 'cat /root/name; md5sum < /root/data')).toBe(`${name}\n${sums[0]!}`);
      expect(await tsvm.ok('logs', name)).toContain('Linux version');
    },
    BOOT_LIMIT_MS,
  );

  it(
    'are gone when they are deleted, and the base is as it was',
    async () => {
      await tsvm.ok('delete', '--force', ...NAMES);
      expect(await tsvm.ok('list', '-q')).toBe('');
      expect((await tsvm.tryShell(`ls -A '${home}/vms'`)).stdout).toBe('');
      expect(await sumOf(base)).toBe(sum);
    },
    STEP_LIMIT_MS,
  );
});
