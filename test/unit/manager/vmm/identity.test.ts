/** What a clone's guest is told, by a shell of this host in namespaces and a root folder of its own. */
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IDENTITY_SCRIPT } from '../../../../src/manager/vmm/identity.ts';

const NAMESPACES = ['-m', '-u', '-n', '--propagation', 'private'];
const probe = spawnSync('unshare', [...NAMESPACES, 'ip', 'link'], { encoding: 'utf8' });
const isPossible = probe.status === 0;
if (!isPossible) console.warn(`skipped: no namespaces without privileges: ${probe.stderr}`);

const MACHINE = '0123456789abcdef0123456789abcdef';
const OLD = '02:00:00:00:00:01';
const NEW = '02:00:00:00:00:02';
const AROUND = `
root=$1
shift
for name in bin sbin lib lib64 usr; do mkdir -p $root/$name && mount --bind /$name $root/$name; done
mkdir -p $root/proc $root/sys $root/dev
mount -t proc proc $root/proc && mount -t sysfs sysfs $root/sys && mount --bind /dev $root/dev
printf old > /proc/sys/kernel/hostname
ip link add eth0 address ${OLD} type veth peer name peer0
chroot $root /bin/sh -c "$SCRIPT"'exit $failed' sh "$@"
status=$?
cat /proc/sys/kernel/hostname
cat $root/sys/class/net/eth0/address
exit $status
`;

let root: string;

const at = (path: string): string => join(root, path);
const write = (path: string, content: string): void => {
  mkdirSync(join(at(path), '..'), { recursive: true });
  writeFileSync(at(path), content);
};
const read = (path: string): string => readFileSync(at(path), 'utf8');

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'tsvm-identity-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function tell(anew: 'yes' | 'no', ...addresses: string[]) {
  const args = ['web-2', MACHINE, 'tsvm-new', anew, 'yes', ...addresses];
  return spawnSync('unshare', [...NAMESPACES, 'sh', '-c', AROUND, 'sh', root, ...args], {
    encoding: 'utf8',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', SCRIPT: IDENTITY_SCRIPT },
  });
}

describe.skipIf(!isPossible)('the guest of a clone', () => {
  test('has another host name, where names are looked up too', () => {
    write('etc/hostname', 'old\n');
    write('etc/hosts', '127.0.0.1 localhost\n127.0.1.1\told.lan old\n10.0.0.9 older\n');
    const { status, stdout, stderr } = tell('no');
    expect([status, stderr, stdout.split('\n')[0]]).toEqual([0, '', 'web-2']);
    expect(read('etc/hostname')).toBe('web-2\n');
    expect(read('etc/hosts')).toBe('127.0.0.1 localhost\n127.0.1.1\tweb-2.lan web-2\n10.0.0.9 older\n');
  });

  test('has another machine-id', () => {
    write('etc/machine-id', `${'f'.repeat(32)}\n`);
    write('var/lib/dbus/machine-id', `${'f'.repeat(32)}\n`);
    expect(tell('no').status).toBe(0);
    expect(read('etc/machine-id')).toBe(`${MACHINE}\n`);
    expect(read('var/lib/dbus/machine-id')).toBe(`${MACHINE}\n`);
  });

  test.each([
    ['no', 'tsvm-new'],
    ['yes', 'tsvm-old'],
  ] as const)('whose cloud-init is to begin anew: %s', (anew, expected) => {
    write('var/lib/cloud/instances/tsvm-old/sem/config_ssh', 'done');
    write('var/lib/cloud/data/instance-id', 'tsvm-old\n');
    symlinkSync('/var/lib/cloud/instances/tsvm-old', at('var/lib/cloud/instance'));
    expect(tell(anew).status).toBe(0);
    expect(readlinkSync(at('var/lib/cloud/instance'))).toBe(`/var/lib/cloud/instances/${expected}`);
    expect(read(`var/lib/cloud/instances/${expected}/sem/config_ssh`)).toBe('done');
    expect(read('var/lib/cloud/data/instance-id')).toBe(`${expected}\n`);
  });

  test('has another address on a network of others, also where it is configured by address', () => {
    write('etc/netplan/50-cloud-init.yaml', `match: {macaddress: "${OLD.toUpperCase()}"}\n`);
    const { status, stdout } = tell('no', OLD, NEW);
    expect([status, stdout.split('\n')[1]]).toEqual([0, NEW]);
    expect(read('etc/netplan/50-cloud-init.yaml')).toBe(`match: {macaddress: "${NEW}"}\n`);
  });

  test('without such a card says so, and has all else', () => {
    write('etc/machine-id', '\n');
    const { status, stdout, stderr } = tell('no', '02:00:00:00:00:77', NEW);
    expect([status, stderr]).toEqual([1, 'no network card has the address 02:00:00:00:00:77\n']);
    expect(stdout.split('\n').slice(0, 2)).toEqual(['web-2', OLD]);
    expect(read('etc/machine-id')).toBe(`${MACHINE}\n`);
  });
});
