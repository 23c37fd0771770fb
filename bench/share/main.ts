/**
 * A shared folder, tsvm's against QEMU's 9p: the same folder, kernel and program in the guest, in turn on the same host.
 * `npm run bench:share -- --help`.
 */
import { Command } from 'commander';
import { execa } from 'execa';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { cacheRoot, packageRoot } from '../../images/debian/cache.ts';
import { initramfsFile } from '../../images/debian/initramfs.ts';
import { kernelOf } from '../../images/debian/kernel.ts';
import { guestHost } from '../../test/lab/host.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { canRunGuests } from '../../test/support/can-run-guests.ts';
import { unpackAhead } from '../../test/support/unpack-ahead.ts';
import { count, warnIfBusy } from '../support/options.ts';
import { ratioRows, summarize } from '../support/statistics.ts';

const RUN_LIMIT_MS = 240_000;
const TAG = 'share';
const CMDLINE = 'console=ttyS0 quiet reboot=t panic=-1';
const FOLDERS = 50;
const FILES = 40;

/** `value` is in microseconds an operation */
type Figure = {
  readonly round: number;
  readonly name: string;
  readonly figure: string;
  readonly value: number;
};
type Contender = {
  readonly name: string;
  readonly mount: string;
  readonly modules: readonly string[];
  command(initrd: string): { argv: string[]; env: Readonly<Record<string, string>> };
};

const options = new Command('npm run bench:share --')
  .description(
    "Times reads, writes and a walk on a shared folder: tsvm's virtio-fs against QEMU's 9p, in turn.",
  )
  .option('--runs <n>', 'rounds, each with one boot of both', count, 3)
  .option('--json', 'print all figures as JSON')
  .parse()
  .opts<{ runs: number; json?: true }>();

warnIfBusy();
const host = await guestHost({ canRunGuests });
const qemu = await findQemu();
const kernel = await kernelOf('linux-image-amd64');
await unpackAhead(kernel.vmlinuz);
const program = await buildWorkload();
const folder = join(host.scratch, 'bench-share');

const contenders: readonly Contender[] = [
  {
    name: 'tsvm',
    mount: `mount -t virtiofs ${TAG} /mnt`,
    modules: ['virtio_pci', 'virtiofs'],
    command: (initrd) => ({
      argv: [
        ...[process.execPath, join(packageRoot(), 'dist/tsvm.js'), 'run', '--kernel', kernel.vmlinuz],
        ...['--initrd', initrd, '--cmdline', CMDLINE, '--mem', '512M', '--no-reboot'],
        ...['--share', `${folder}:/mnt,tag=${TAG}`],
      ],
      env: {},
    }),
  },
  {
    name: 'qemu 9p',
    mount: `mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 ${TAG} /mnt`,
    modules: ['virtio_pci', '9pnet_virtio', '9p'],
    command: (initrd) => ({
      argv: [
        qemu.command,
        ...qemu.args,
        ...[
          '-M',
          'q35',
          '-nodefaults',
          '-no-user-config',
          '-display',
          'none',
          '-serial',
          'stdio',
          '-no-reboot',
        ],
        ...['-accel', 'kvm', '-cpu', 'host', '-m', '512', '-kernel', kernel.vmlinuz, '-initrd', initrd],
        ...['-append', CMDLINE, '-fsdev', `local,id=f,path=${folder},security_model=none`],
        ...['-device', `virtio-9p-pci,fsdev=f,mount_tag=${TAG}`],
      ],
      env: qemu.env,
    }),
  },
];

/** The program, linked statically: the guest has no libraries. */
async function buildWorkload(): Promise<Buffer> {
  await mkdir(cacheRoot(), { recursive: true });
  const scratch = await mkdtemp(join(cacheRoot(), 'bench-share-'));
  try {
    const built = join(scratch, 'workload');
    await execa('cc', ['-O2', '-Wall', '-static', '-o', built, join(import.meta.dirname, 'workload.c')]);
    return await readFile(built);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function measure(round: number, contender: Contender): Promise<Figure[]> {
  const { name, mount, modules } = contender;
  const initrd = await initramfsFile({
    init: `mount -t devtmpfs dev /dev\nload-modules\n${mount}\n/workload /mnt\npoweroff -f\n`,
    modules: { kernel, names: modules },
    files: [{ type: 'file', path: 'workload', mode: 0o755, content: program }],
  });
  const { argv, env } = contender.command(initrd);
  const words = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  const { stdout, stderr } = await host.exec(['env', ...words, ...argv], { timeoutMs: RUN_LIMIT_MS });
  if (!/^done/m.test(stdout)) throw new Error(`${name} did not end: ${stdout.slice(-2000)}\n${stderr}`);
  return [...stdout.matchAll(/^figure (\S+) (\d+) (\d+)/gm)].map(([, figure = '', operations, ns]) => ({
    round,
    name,
    figure,
    value: Number(ns) / Number(operations) / 1000,
  }));
}

try {
  await host.exec(
    `rm -rf ${folder}; mkdir -p ${folder}/tree; cd ${folder}; head -c 64M /dev/urandom > big; cd tree; ` +
      `for i in $(seq ${FOLDERS}); do mkdir d$i; for j in $(seq ${FILES}); do echo $j > d$i/f$j; done; done`,
    { timeoutMs: RUN_LIMIT_MS },
  );
  const figures: Figure[] = [];
  for (let round = 0; round < options.runs; round++) {
    for (const contender of contenders) figures.push(...(await measure(round, contender)));
  }
  report(figures);
} finally {
  await host.exec(`rm -rf ${folder}`);
  await host.close();
}

function report(figures: readonly Figure[]): void {
  const names = [...new Set(figures.map(({ figure }) => figure))];
  const rows = names.flatMap((figure) => {
    const own = figures.filter((each) => each.figure === figure);
    return contenders.map(({ name }) => {
      const values = own.filter((each) => each.name === name).map(({ value }) => value);
      return { figure, ...summarize(name, values, options.runs) };
    });
  });
  // Above 1: as many times the work in the same time.
  const ratios = names.flatMap((figure) =>
    ratioRows(
      ['tsvm'],
      'qemu 9p',
      figures.filter((each) => each.figure === figure).map((each) => ({ ...each, value: 1 / each.value })),
    ).map((row) => ({ figure, ...row })),
  );
  if (options.json) {
    console.log(
      JSON.stringify({ host: host.kind, qemu: qemu.version, options, ratios, rows, figures }, null, 2),
    );
    return;
  }
  console.log(
    `Linux ${kernel.version}, 1 vCPU, QEMU ${qemu.version}; ${host.kind}; microseconds an operation`,
  );
  console.table(rows);
  console.log('ratio to qemu 9p, round by round (above 1: faster)');
  console.table(ratios);
}
