/**
 * The main job of README: boots a stock Debian kernel in a VM of ours, runs commands in it through the console, and
 * says how to go on. Where KVM cannot run guest kernels, the lab gives a machine that can.
 */
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { guestHost } from '../../test/lab/host.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { cacheRoot, packageRoot } from './cache.ts';
import { buildInitramfs } from './initramfs.ts';
import { kernelOf } from './kernel.ts';

const READY = 'tsvm: the guest is ready';
const COMMANDS = ['uname -a', 'nproc', 'head -1 /proc/meminfo'];
const BOOT_LIMIT_MS = 180_000;

const INIT = `
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
echo "${READY}"
exec setsid cttyhack sh
`;

const say = (text: string): void => console.log(`==> ${text}`);

say("Fetching Debian's stock cloud kernel");
const kernel = await kernelOf('linux-image-cloud-amd64');
const folder = join(cacheRoot(), 'quickstart');
await mkdir(folder, { recursive: true });
const vmlinuz = join(folder, 'vmlinuz');
const initrd = join(folder, 'initrd');
await copyFile(kernel.vmlinuz, vmlinuz);
await writeFile(initrd, await buildInitramfs({ init: INIT }));

// Once, on this machine: in the lab it would take many times longer.
await unpackAhead(vmlinuz);

const tsvm = join(packageRoot(), 'dist/tsvm.js');
const run = `run --kernel ${vmlinuz} --initrd ${initrd} --cpus 2 --mem 512M`;

say('Probing whether KVM here runs guest kernels');
const direct = process.env['TSVM_LAB'] !== 'always' && (await canRunGuests());
if (!direct) {
  say(
    'It does not (`node dist/tsvm.js doctor` tells why): starting the lab, an emulated machine whose KVM does',
  );
}
const host = await guestHost({ canRunGuests: () => Promise.resolve(direct) });
try {
  say(
    `Booting Linux ${kernel.version} with 2 vCPUs and 512 MiB: tsvm ${run.replaceAll(packageRoot() + '/', '')}`,
  );
  const start = performance.now();
  let ready: number | undefined;
  let output = '';
  const { code, timedOut, stderr } = await host.exec(
    ['node', tsvm, ...run.split(' '), '--cmdline', 'console=ttyS0 quiet', '--timings'],
    {
      stdin: [...COMMANDS, 'poweroff -f'].map((command) => `${command}\n`).join(''),
      timeoutMs: BOOT_LIMIT_MS,
      onOutput: (chunk, stream) => {
        if (stream === 'stderr') return;
        output += chunk.toString();
        process.stdout.write(chunk);
        if (output.includes(READY)) ready ??= performance.now();
      },
    },
  );
  console.log();
  if (code !== 0 || ready === undefined) {
    throw new Error(
      timedOut ? `the guest was not done after ${BOOT_LIMIT_MS / 1000} s` : `tsvm ended with ${code}`,
    );
  }
  say(`The guest was ready ${Math.round(ready - start)} ms after tsvm was started.`);
  console.log(stderr.trim());
} finally {
  await host.close();
}

const lab = direct ? '' : 'npm run lab -- ';
console.log(`
Go on with a shell of your own in the guest (Ctrl-] q leaves, Ctrl-] ? helps):
  ${lab}node dist/tsvm.js ${run.replaceAll(packageRoot() + '/', '')}
Any kernel and initrd of yours will do; what else there is:
  node dist/tsvm.js run --help
  node dist/tsvm.js doctor`);
