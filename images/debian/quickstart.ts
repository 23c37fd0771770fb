/**
 * The main job of README: builds a Debian on a disk, boots it in a VM of ours, runs commands in it through its guest
 * agent, and says how to go on. Where KVM cannot run guest kernels, the lab gives a machine that can.
 */
import { copyFile, mkdir } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { guestHost } from '../../test/lab/host.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { cacheRoot, packageRoot } from './cache.ts';
import { buildDebian } from './system.ts';

const AGENT = 'org.qemu.guest_agent.0';
const COMMAND =
  'uname -a; grep PRETTY /etc/os-release; nproc; free -m; lsblk; systemctl is-system-running --wait';
const BOOT_LIMIT_MS = 480_000;
const AGENT_LIMIT_S = 420;

const say = (text: string): void => console.log(`==> ${text}`);
const progress = (line: string): void => say(line.replace(/^./, (first) => first.toUpperCase()));

say('Building a Debian 12 on a disk, or taking it from the cache');
const debian = await buildDebian({ progress });
// Once, on this machine: in the lab it would take many times longer.
await unpackAhead(debian.kernel);

const folder = join(cacheRoot(), 'quickstart');
await mkdir(folder, { recursive: true });
// Names for people: those in the cache are checksums.
const own = { kernel: join(folder, 'vmlinuz'), initrd: join(folder, 'initrd.img') };
await copyFile(debian.kernel, own.kernel, constants.COPYFILE_FICLONE);
await copyFile(debian.initrd, own.initrd, constants.COPYFILE_FICLONE);
await unpackAhead(own.kernel);

const tsvm = join(packageRoot(), 'dist/tsvm.cjs');
const short = (text: string): string => text.replaceAll(`${packageRoot()}/`, '');
const machine = [
  'run',
  '--kernel',
  own.kernel,
  '--initrd',
  own.initrd,
  '--cpus',
  '2',
  '--mem',
  '1G',
  '--rng',
];
const cmdline = `${debian.cmdline} console=ttyS0`;

say('Probing whether KVM here runs guest kernels');
const direct = process.env['TSVM_LAB'] !== 'always' && (await canRunGuests());
if (!direct) {
  say(
    'It does not (`node dist/tsvm.cjs doctor` tells why): starting the lab, an emulated machine whose KVM does',
  );
}
const host = await guestHost({ canRunGuests: () => Promise.resolve(direct), debian: true });
try {
  const disk = await host.debianDisk('quickstart.raw');
  const socket = join(host.scratch, 'quickstart.sock');
  const argv = [tsvm, ...machine, '--disk', disk, '--port', `${AGENT}=${socket}`, '--cmdline', cmdline];
  say(
    `Booting Linux ${debian.kernelVersion} and systemd with 2 vCPUs and 1 GiB: tsvm ${short(argv.slice(1).join(' '))}`,
  );
  const start = performance.now();
  const vm = host.exec(['node', ...argv], {
    timeoutMs: BOOT_LIMIT_MS,
    collect: false,
    onOutput: (chunk, stream) => void process[stream].write(chunk),
  });
  const agent = (args: readonly string[]) =>
    host.exec(['node', tsvm, 'agent', '--wait', String(AGENT_LIMIT_S), socket, '--', ...args], {
      timeoutMs: BOOT_LIMIT_MS,
    });
  const said = agent(['/bin/sh', '-c', COMMAND]);
  const first = await Promise.race([said, vm]);
  console.log();
  if (first.stdout === '') throw new Error(`the guest did not answer: ${first.stderr || 'tsvm has ended'}`);
  say(
    `The guest answered ${Math.round(performance.now() - start)} ms after tsvm was started: sh -c '${COMMAND}'`,
  );
  process.stdout.write(first.stdout);
  if (first.code !== 0) throw new Error(`the command ended with ${first.code}: ${first.stderr}`);
  say('Powering the guest off');
  await agent(['systemctl', 'poweroff', '--no-block']);
  const { code, timedOut } = await vm;
  console.log();
  if (code !== 0) {
    throw new Error(
      timedOut ? `the guest was not off after ${BOOT_LIMIT_MS / 1000} s` : `tsvm ended with ${code}`,
    );
  }
} finally {
  await host.close();
}

const copy = direct ? join(short(folder), 'disk.raw') : '$TSVM_LAB_SCRATCH/debian.raw';
if (direct) await copyFile(debian.disk, join(folder, 'disk.raw'), constants.COPYFILE_FICLONE);
const again = `node dist/tsvm.cjs ${short(machine.join(' '))} --disk ${copy} --cmdline "${cmdline}"`;
console.log(`
Go on with a login of your own (user ${debian.login.user}, password ${debian.login.password}; Ctrl-] q leaves, Ctrl-] ? helps):
  ${direct ? again : `npm run lab -- --debian '${again}'`}
Any kernel, initrd and disk of yours will do; what else there is:
  node dist/tsvm.cjs run --help
  node dist/tsvm.cjs agent --help
  node dist/tsvm.cjs doctor`);
