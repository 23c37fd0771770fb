/** What of a VM can be changed after it was made. Limits are with their own tests, disks and memory with the VM's. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Vm } from '../../src/index.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

const portsOf = (name: string): readonly string[] =>
  Vm.get(name, { home: home.env.TSVM_HOME }).settings.network.publish;

/** A VM with a card that ports can lead to. It is not started. */
async function createWithPorts(...more: string[]): Promise<void> {
  const [disk = '', ...options] = await home.echoGuest();
  await home.ok(
    'create',
    disk,
    'web',
    ...options.slice(0, options.indexOf('--net')),
    '--net',
    'user',
    ...more,
  );
}

test('published ports are given anew, and taken away', async () => {
  await createWithPorts('-p', '8080:80');
  await home.ok('set', '-p', '2222:22', '-p', '[::1]:0:53/udp', 'web');
  expect(portsOf('web')).toEqual(['2222:22', '[::1]:0:53/udp']);
  await home.ok('set', '--cpus', '2', 'web');
  expect(portsOf('web')).toEqual(['2222:22', '[::1]:0:53/udp']);
  await home.ok('set', '--no-publish', '-p', '1:1', 'web');
  expect(portsOf('web')).toEqual(['1:1']);
  await home.ok('set', '--no-publish', 'web');
  expect(portsOf('web')).toEqual([]);
});

test.each([
  [['-p', '80'], "'80' is no port forward"],
  [['-p', '80:80', '-p', '80:81'], 'port 80 of the host is forwarded twice'],
  [[], 'there is nothing to set'],
  [['--disk', '4K'], 'a disk is not made smaller'],
])('%j is refused, and nothing is changed', async (flags, why) => {
  await createWithPorts('-p', '8080:80');
  const { code, stderr } = await home.tsvm('set', ...flags, 'web');
  expect([code, stderr]).toEqual([2, expect.stringContaining(why)]);
  expect(portsOf('web')).toEqual(['8080:80']);
});

test('ports need a card that they lead to', async () => {
  await home.create('web');
  const { code, stderr } = await home.tsvm('set', '-p', '80:80', 'web');
  expect([code, stderr]).toEqual([2, expect.stringContaining('--publish needs a card on the user network')]);
});

test('the library has it too, and says what waits for a restart', async () => {
  await home.create('web', '--mem', '64M');
  const vm = Vm.get('web', { home: home.env.TSVM_HOME });
  expect(await vm.set({ memory: 96 * 2 ** 20, cpus: 2 })).toEqual([]);
  await vm.start();
  expect(await vm.set({ cpus: 1, publish: [], memory: 128 * 2 ** 20 })).toEqual([
    'memory',
    'CPUs',
    'published ports',
  ]);
  // Less is a matter of the balloon.
  expect(await vm.set({ memory: 48 * 2 ** 20 })).toEqual([]);
  expect(vm.settings.vm).toMatchObject({ memory: 48 * 2 ** 20, cpus: 1 });
});
