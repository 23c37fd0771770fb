/**
 * A shared folder, tsvm's against QEMU's 9p: the same folder, kernel and program in the guest, in turn on the same host.
 * `npm run bench:share -- --help`.
 */
import { Command } from 'commander';
import { join } from 'node:path';
import { buildProgram, LinuxBench, type Contender, type Figure } from '../support/linux-guest.ts';
import { count, warnIfBusy } from '../support/options.ts';

const PREPARE_LIMIT_MS = 240_000;
const TAG = 'share';
const FOLDERS = 50;
const FILES = 40;

const options = new Command('npm run bench:share --')
  .description(
    "Times reads, writes and a walk on a shared folder: tsvm's virtio-fs against QEMU's 9p, in turn.",
  )
  .option('--runs <n>', 'rounds, each with one boot of both', count, 3)
  .option('--json', 'print all figures as JSON')
  .parse()
  .opts<{ runs: number; json?: true }>();

warnIfBusy();
const bench = await LinuxBench.open();
const program = await buildProgram(join(import.meta.dirname, 'workload.c'));
const folder = join(bench.host.scratch, 'bench-share');

const contenders: readonly Contender[] = [
  {
    name: 'tsvm',
    vmm: 'tsvm',
    setUp: `mount -t virtiofs ${TAG} /mnt`,
    modules: ['virtio_pci', 'virtiofs'],
    args: ['--share', `${folder}:/mnt,tag=${TAG}`],
  },
  {
    name: 'qemu 9p',
    vmm: 'qemu',
    setUp: `mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 ${TAG} /mnt`,
    modules: ['virtio_pci', '9pnet_virtio', '9p'],
    args: [
      ...['-fsdev', `local,id=f,path=${folder},security_model=none`],
      ...['-device', `virtio-9p-pci,fsdev=f,mount_tag=${TAG}`],
    ],
  },
];

try {
  await bench.host.exec(
    `rm -rf ${folder}; mkdir -p ${folder}/tree; cd ${folder}; head -c 64M /dev/urandom > big; cd tree; ` +
      `for i in $(seq ${FOLDERS}); do mkdir d$i; for j in $(seq ${FILES}); do echo $j > d$i/f$j; done; done`,
    { timeoutMs: PREPARE_LIMIT_MS },
  );
  const figures: Figure[] = [];
  for (let round = 0; round < options.runs; round++) {
    for (const contender of contenders)
      figures.push(...(await bench.measure(round, contender, program, '/program /mnt')));
  }
  bench.report(figures, contenders, options);
} finally {
  await bench.host.exec(`rm -rf ${folder}`);
  await bench.host.close();
}
