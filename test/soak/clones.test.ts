/** Many clones of one snapshot at once: what they share, and what each has of its own. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Vm } from '../../src/index.ts';
import { cloudKernel, openHost } from '../guest/support.ts';
import { HostTsvm } from '../guest/tsvm.ts';
import { agentInitramfs } from '../support/agent-guest.ts';
import { VmHome } from '../support/vm-home.ts';

/** of a guest that any KVM runs */
const SMALL = Number(process.env['TSVM_CLONES'] ?? 100);
/** of a Linux; in the lab each is a boot of Node on an emulated processor */
const LINUX = Number(process.env['TSVM_LINUX_CLONES'] ?? 10);
const LIMIT_MS = 3_600_000;

let home: VmHome;
beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

test(`${SMALL} of a guest of 512 MiB run at once, on one copy of its memory`, async () => {
  const [disk = '', ...guest] = (await home.echoGuest()).slice(0, -2);
  await home.ok('create', disk, 'web', ...guest, '--mem', '512M', '--net', 'vmnet=clones');
  await home.ok('start', 'web');
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '30', 'web');
  await home.ok('snapshot', 'create', 'web', 'one');
  await home.ok('stop', '--force', 'web');
  const begin = performance.now();
  const names = (await home.ok('clone', 'web@one', 'copy', '--count', String(SMALL), '--start'))
    .trim()
    .split('\n');
  const seconds = (performance.now() - begin) / 1000;
  expect(names).toHaveLength(SMALL);

  const rows = JSON.parse(await home.ok('list', '--json')) as { name: string; state: string }[];
  expect(rows.filter(({ state }) => state === 'running').map(({ name }) => name)).toEqual(
    expect.arrayContaining(names),
  );
  for (const name of names) {
    await using vm = Vm.get(name, { home: home.env.TSVM_HOME });
    await vm.serial.send(`typed-to-${name}\n`);
    await vm.serial.expect(`typed-to-${name}`, { timeout: 60_000 });
  }
  const identities = names.map(
    (name) =>
      JSON.parse(readFileSync(join(home.env.TSVM_HOME, 'vms', name, 'clone.json'), 'utf8')) as {
        hostname: string;
        machineId: string;
        addresses: { to: string }[];
      },
  );
  for (const of of [
    identities.map(({ hostname }) => hostname),
    identities.map(({ machineId }) => machineId),
    identities.map(({ addresses }) => addresses.map(({ to }) => to).join()),
  ])
    expect(new Set(of).size).toBe(SMALL);

  const own = home.processes().map(memoryOf);
  const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const privately = sum(own.map((each) => each.private));
  console.log(
    `${SMALL} clones: the last one ran after ${seconds.toFixed(1)} s; ${mib(privately / SMALL)} MiB of its own each, ` +
      `${mib(sum(own.map(({ pss }) => pss)) / SMALL)} MiB with its part of what is shared`,
  );
  // The guest's 512 MiB are nobody's own.
  expect(privately / SMALL).toBeLessThan(256 * 2 ** 20);
});

/** What a process has in memory, in bytes. */
function memoryOf(pid: number): { private: number; pss: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const of = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(text)?.[1]) * 1024;
  return { private: of('Private_Clean') + of('Private_Dirty'), pss: of('Pss') };
}

test(`${LINUX} of a Linux are ${LINUX} machines`, async () => {
  const host = await openHost();
  const folder = join(host.scratch, 'clones');
  const tsvm = new HostTsvm(host, folder, LIMIT_MS);
  try {
    const kernel = await cloudKernel();
    const initrd = await agentInitramfs(kernel, {
      modules: ['virtio_net', 'virtio-rng'],
      setUp: `mkdir -p /etc; tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id; ip link set eth0 up`,
    });
    await host.exec(['mkdir', '-p', folder]);
    await tsvm.shell(`
      truncate -s 1M disk.raw
      t create ./disk.raw web --kernel '${kernel.vmlinuz}' --initrd '${initrd}' --cmdline 'console=ttyS0 quiet' \\
        --mem 512M --net vmnet=clones --start
      t wait --for agent --timeout 300 web; t snapshot create web one; t stop --force web
      t clone web@one copy --count ${LINUX} --start`);
    const said: string[][] = [];
    for (let i = 1; i <= LINUX; i++) {
      const look =
        'cat /proc/sys/kernel/hostname /etc/machine-id /sys/class/net/eth0/address; head -c 32 /dev/urandom | md5sum';
      said.push((await tsvm.inGuest(`copy-${i}`, look)).trim().split('\n'));
    }
    for (let line = 0; line < 4; line++)
      expect(new Set(said.map((each) => each[line])).size, JSON.stringify(said)).toBe(LINUX);
    expect(said.map(([name]) => name)).toEqual(Array.from({ length: LINUX }, (_, i) => `copy-${i + 1}`));
  } finally {
    await tsvm.run('delete', '--force', 'web', ...Array.from({ length: LINUX }, (_, i) => `copy-${i + 1}`));
    await host.exec(`rm -rf '${folder}'`);
    await host.close();
  }
});
