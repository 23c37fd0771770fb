/**
 * The boot of a stock Debian kernel to its first line of init, or of a whole Debian from its disk to a login prompt,
 * tsvm against QEMU: same kernel, initrd, disk, command line, vCPUs and memory, in turn on the same host.
 * `npm run bench:boot -- --help`.
 */
import { Command } from 'commander';
import { join } from 'node:path';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { kernelOf } from '../../images/debian/kernel.ts';
import { buildDebian } from '../../images/debian/system.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import { guestHost } from '../../test/lab/host.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { count } from '../support/options.ts';
import { ratioRows, summarize, type Summary } from '../support/statistics.ts';

const MARKER = 'bench: first line of init';
const CMDLINE = 'console=ttyS0 quiet reboot=t panic=-1';
const RUN_LIMIT_MS = 120_000;
const DEBIAN_LIMIT_MS = 400_000;

type Contender = {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
};

/** What is booted, and how one sees that it is up. */
type Subject = {
  readonly title: string;
  readonly marker: string;
  readonly limitMs: number;
  /** the contender that others are compared with */
  readonly peer: string;
  readonly contenders: readonly Contender[];
};

type Run = {
  readonly round: number;
  readonly name: string;
  readonly ok: boolean;
  /** ms from the start of the process to the first line of init, and to the first entry into the guest */
  readonly init: number | null;
  readonly entry: number | null;
  readonly tail?: string;
  /** what tsvm told of the guest's accesses */
  readonly stats?: string;
};

const options = new Command('npm run bench:boot --')
  .description('Times the boot of a stock Debian kernel under tsvm and under QEMU microvm, in turn.')
  .option('--runs <n>', 'rounds, each with one boot of every contender', count, 10)
  .option('--cpus <n>', 'vCPUs', count, 1)
  .option('--mem <MiB>', 'guest memory', count, 512)
  .option('--package <name>', "Debian's kernel package", 'linux-image-cloud-amd64')
  .option('--debian', 'boot a Debian with systemd from its disk to its login prompt instead')
  .option('--json', 'print all figures as JSON')
  .parse()
  .opts<{ runs: number; cpus: number; mem: number; package: string; debian?: true; json?: true }>();

const host = await guestHost({ canRunGuests, debian: options.debian === true });
const qemu = await findQemu();
const what = options.debian === true ? await debianBoot() : await initBoot();
const { contenders, marker, limitMs } = what;

/** To the first line of an init of ours. */
async function initBoot(): Promise<Subject> {
  const kernel = await kernelOf(options.package);
  await unpackAhead(kernel.vmlinuz);
  const initrd = await initramfsFile({ init: `echo "${MARKER}"\npoweroff -f\n` });
  const machine = ['--kernel', kernel.vmlinuz, '--initrd', initrd, '--cmdline', CMDLINE];
  const guest = ['-kernel', kernel.vmlinuz, '-initrd', initrd, '-append', CMDLINE];
  return {
    title: `Linux ${kernel.version} to init`,
    marker: MARKER,
    limitMs: RUN_LIMIT_MS,
    peer: 'qemu microvm',
    contenders: [
      tsvm('tsvm', machine),
      tsvm('tsvm, packed', [...machine, '--no-unpack-kernel']),
      qemuMachine('qemu microvm', ['-M', 'microvm,rtc=on', ...guest]),
    ],
  };
}

/** A Debian from its disk to multi-user: the login prompt comes with that target. */
async function debianBoot(): Promise<Subject> {
  const system = await buildDebian();
  await unpackAhead(system.kernel);
  const cmdline = `${system.cmdline} ${CMDLINE}`;
  // A disk for each, as each writes to its own.
  const disks: string[] = [];
  for (const name of ['pci', 'mmio', 'microvm', 'q35'])
    disks.push(await host.debianDisk(`bench-${name}.raw`));
  const machine = (transport: string, disk: string): string[] => [
    ...['--kernel', system.kernel, '--initrd', system.initrd, '--cmdline', cmdline],
    ...['--transport', transport, '--disk', disk, '--stats'],
  ];
  const guest = ['-kernel', system.kernel, '-initrd', system.initrd, '-append', cmdline];
  const drive = (disk: string, device: string): string[] => [
    ...[
      '-object',
      'iothread,id=io0',
      '-drive',
      `file=${disk},if=none,id=d0,format=raw,cache=writeback,aio=io_uring`,
    ],
    ...['-device', `${device},drive=d0,iothread=io0`],
  ];
  return {
    title: `Debian with Linux ${system.kernelVersion} from its disk to a login prompt`,
    marker: 'login: ',
    limitMs: DEBIAN_LIMIT_MS,
    peer: 'qemu microvm',
    contenders: [
      tsvm('tsvm', machine('pci', disks[0]!)),
      tsvm('tsvm, mmio', machine('mmio', disks[1]!)),
      qemuMachine('qemu microvm', [
        '-M',
        'microvm,rtc=on',
        ...guest,
        ...drive(disks[2]!, 'virtio-blk-device'),
      ]),
      qemuMachine('qemu q35', ['-M', 'q35', ...guest, ...drive(disks[3]!, 'virtio-blk-pci')]),
    ],
  };
}

function tsvm(name: string, args: readonly string[]): Contender {
  const machine = ['--mem', `${options.mem}M`, '--cpus', String(options.cpus)];
  return {
    name,
    command: process.execPath,
    args: [join(packageRoot(), 'dist/tsvm.cjs'), 'run', ...args, ...machine],
    env: {},
  };
}

function qemuMachine(name: string, args: readonly string[]): Contender {
  const plain = ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
  const size = ['-accel', 'kvm', '-cpu', 'host', '-m', String(options.mem), '-smp', String(options.cpus)];
  return { name, command: qemu.command, args: [...qemu.args, ...plain, ...size, ...args], env: qemu.env };
}

try {
  // The unpacked kernel is cached where the guests run; one boot outside the count makes it and warms the files.
  const request = { contenders, marker, runs: options.runs + 1, limitMs };
  const { code, stdout, stderr } = await host.exec(
    [process.execPath, join(import.meta.dirname, 'measure.mjs'), JSON.stringify(request)],
    { timeoutMs: request.runs * contenders.length * limitMs },
  );
  if (code !== 0) throw new Error(`the measurement ended with status ${code}: ${stderr}`);
  const runs = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Run)
    .filter(({ round }) => round > 0);
  report(runs);
} finally {
  await host.close();
}

function report(runs: readonly Run[]): void {
  const value = {
    'process to init': (run: Run) => run.init,
    'process to first entry': (run: Run) => run.entry,
    'first entry to init': (run: Run) =>
      run.init === null || run.entry === null ? null : run.init - run.entry,
  };
  const summaries: (Summary & { figure: string })[] = [];
  for (const [figure, of] of Object.entries(value)) {
    for (const { name } of contenders) {
      const own = runs.filter((run) => run.name === name);
      summaries.push({ figure, ...summarize(name, own.map(of), own.length) });
    }
  }
  const ratios = Object.entries(value).flatMap(([figure, of]) =>
    ratioRows(
      contenders.map(({ name }) => name).filter((name) => name !== what.peer),
      what.peer,
      runs.map((run) => ({ round: run.round, name: run.name, value: of(run) })),
    ).map((row) => ({ figure, ...row })),
  );
  const failed = runs.filter(({ ok }) => !ok);
  if (options.json) {
    console.log(
      JSON.stringify(
        { host: host.kind, subject: what.title, qemu: qemu.version, options, ratios, summaries, runs },
        null,
        2,
      ),
    );
  } else {
    console.log(
      `${what.title}, ${options.cpus} vCPU, ${options.mem} MiB; QEMU ${qemu.version}; ${host.kind}`,
    );
    console.table(summaries);
    console.log(`ratio to ${what.peer}, round by round (below 1: faster)`);
    console.table(ratios);
    for (const { name } of contenders) {
      const stats = runs.filter((run) => run.name === name).at(-1)?.stats;
      if (stats !== undefined) console.log(`${name}, accesses of the last boot:\n${stats}\n`);
    }
  }
  for (const { name, tail } of failed) console.error(`${name} did not reach init:\n${tail ?? ''}`);
  if (failed.length > 0) process.exitCode = 1;
}
