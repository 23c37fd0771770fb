/**
 * The boot of a stock Debian kernel to its first line of init, tsvm against QEMU's microvm machine: same kernel,
 * initrd, command line, vCPUs and memory, in turn on the same host. `npm run bench:boot -- --help`.
 */
import { Command, InvalidArgumentError } from 'commander';
import { join } from 'node:path';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { kernelOf } from '../../images/debian/kernel.ts';
import { packageRoot } from '../../images/debian/cache.ts';
import { guestHost } from '../../test/lab/host.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { ratioRows, summarize, type Summary } from '../support/statistics.ts';

const MARKER = 'bench: first line of init';
const CMDLINE = 'console=ttyS0 quiet reboot=t panic=-1';
const RUN_LIMIT_MS = 120_000;

type Run = {
  readonly round: number;
  readonly name: string;
  readonly ok: boolean;
  /** ms from the start of the process to the first line of init, and to the first entry into the guest */
  readonly init: number | null;
  readonly entry: number | null;
  readonly tail?: string;
};

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('not a whole number above 0');
  return value;
};

const options = new Command('npm run bench:boot --')
  .description('Times the boot of a stock Debian kernel under tsvm and under QEMU microvm, in turn.')
  .option('--runs <n>', 'rounds, each with one boot of every contender', count, 10)
  .option('--cpus <n>', 'vCPUs', count, 1)
  .option('--mem <MiB>', 'guest memory', count, 512)
  .option('--package <name>', "Debian's kernel package", 'linux-image-cloud-amd64')
  .option('--json', 'print all figures as JSON')
  .parse()
  .opts<{ runs: number; cpus: number; mem: number; package: string; json?: true }>();

const kernel = await kernelOf(options.package);
await unpackAhead(kernel.vmlinuz);
const initrd = await initramfsFile({ init: `echo "${MARKER}"\npoweroff -f\n` });
const qemu = await findQemu();
const guest = ['-append', CMDLINE, '-m', String(options.mem), '-smp', String(options.cpus)];
const files = ['-kernel', kernel.vmlinuz, '-initrd', initrd];
const plain = ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'];
const tsvm = [join(packageRoot(), 'dist/tsvm.js'), 'run', '--kernel', kernel.vmlinuz, '--initrd', initrd];
const machine = ['--cmdline', CMDLINE, '--mem', `${options.mem}M`, '--cpus', String(options.cpus)];
const contenders = [
  { name: 'tsvm', command: process.execPath, args: [...tsvm, ...machine], env: {} },
  {
    name: 'tsvm, packed',
    command: process.execPath,
    args: [...tsvm, ...machine, '--no-unpack-kernel'],
    env: {},
  },
  {
    name: 'qemu microvm',
    command: qemu.command,
    args: [
      ...qemu.args,
      '-M',
      'microvm,rtc=on',
      '-accel',
      'kvm',
      '-cpu',
      'host',
      ...plain,
      ...files,
      ...guest,
    ],
    env: qemu.env,
  },
];

const host = await guestHost({ canRunGuests });
try {
  // The unpacked kernel is cached where the guests run; one boot outside the count makes it and warms the files.
  const request = { contenders, marker: MARKER, runs: options.runs + 1, limitMs: RUN_LIMIT_MS };
  const { code, stdout, stderr } = await host.exec(
    [process.execPath, join(import.meta.dirname, 'measure.mjs'), JSON.stringify(request)],
    { timeoutMs: request.runs * contenders.length * RUN_LIMIT_MS },
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
      contenders.slice(0, 2).map(({ name }) => name),
      'qemu microvm',
      runs.map((run) => ({ round: run.round, name: run.name, value: of(run) })),
    ).map((row) => ({ figure, ...row })),
  );
  const failed = runs.filter(({ ok }) => !ok);
  if (options.json) {
    console.log(
      JSON.stringify(
        { host: host.kind, kernel: kernel.version, qemu: qemu.version, options, ratios, summaries, runs },
        null,
        2,
      ),
    );
  } else {
    console.log(
      `Linux ${kernel.version}, ${options.cpus} vCPU, ${options.mem} MiB; QEMU ${qemu.version}; ${host.kind}`,
    );
    console.table(summaries);
    console.log('ratio to qemu microvm, round by round (below 1: faster)');
    console.table(ratios);
  }
  for (const { name, tail } of failed) console.error(`${name} did not reach init:\n${tail ?? ''}`);
  if (failed.length > 0) process.exitCode = 1;
}
