/**
 * virtio-blk under tsvm and under QEMU, over virtio-mmio and over PCI, on the same file in the same run, in turn.
 * A guest program of ours drives the queue, so it needs no guest kernel. `npm run bench:devices -- --help`.
 */
import { Command } from 'commander';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheRoot } from '../../images/debian/cache.ts';
import { MIB } from '../../src/boot/layout.ts';
import { buildGuestProgram } from '../../test/guests/build.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { count, warnIfBusy } from '../support/options.ts';
import { contenders } from './contenders.ts';
import { writeStampedImage } from './disk-image.ts';
import { fioRate, fioVersion } from './fio.ts';
import { compare, FIO, type Sample } from './report.ts';
import { runGuest } from './run-guest.ts';
import { tscKhz } from './tsc.ts';
import { isSequential, runWord, WORKLOADS } from './workloads.ts';

const WARM_UP_MS = 100;
const VERIFY_BYTES = 32 * MIB;
const START_LIMIT_MS = 60_000;

const options = new Command('npm run bench:devices --')
  .description('Measures virtio-blk under tsvm and QEMU, with a guest program that drives the queue itself.')
  .option('--rounds <n>', 'rounds, each with a run of every contender', count, 7)
  .option('--ms <n>', 'milliseconds that a workload is measured', count, 500)
  .option('--file <path>', 'the disk image, made anew; default in the cache')
  .option('--size <MiB>', 'its size', count, 1024)
  .option('--only <text>', 'workloads with this in their names, such as "depth 1" or "1M"')
  .option('--contender <text>', 'contenders with this in their names, and their peers')
  .option('--json', 'print all samples as JSON')
  .parse()
  .opts<{
    rounds: number;
    ms: number;
    file?: string;
    size: number;
    only?: string;
    contender?: string;
    json?: true;
  }>();

warnIfBusy();
const loads = WORKLOADS.filter(({ name }) => name.includes(options.only ?? ''));
if (loads.length === 0) throw new Error(`no workload has '${options.only ?? ''}' in its name`);
const disk = options.file ?? join(cacheRoot(), 'bench', 'disk.img');
await mkdir(join(disk, '..'), { recursive: true });
await writeStampedImage(disk, options.size * MIB);
// What fio writes has no stamps, so it gets a file of its own for that.
const scribble = `${disk}.fio`;
await writeStampedImage(scribble, options.size * MIB);
const program = await buildGuestProgram('disk-load');
const qemu = await findQemu();
const fio = await fioVersion();
const scratch = await mkdtemp(join(tmpdir(), 'tsvm-bench-'));
const samples: Sample[] = [];
try {
  const all = await contenders({ program, disk, format: 'raw', qemu, scratch });
  const wanted = all.filter(({ name }) => name.includes(options.contender ?? ''));
  const racing = all.filter((each) =>
    wanted.some(({ name, peer }) => each.name === name || each.name === peer),
  );
  const khz = tscKhz();
  const words = [
    ...(khz === undefined ? [] : [`tsc_khz=${khz}`]),
    ...['stamped=1', `warmup=${WARM_UP_MS}`],
    ...loads.map((load) => runWord(load, options.ms)),
  ];
  const limitMs = START_LIMIT_MS + 4 * loads.length * (WARM_UP_MS + options.ms);
  for (let round = 0; round < options.rounds; round++) {
    // Who goes first changes: the machine's speed drifts.
    for (const contender of round % 2 === 0 ? racing : racing.toReversed()) {
      const verify = round === 0 ? [`verify=${VERIFY_BYTES}`] : [];
      const results = await runGuest(contender, [...verify, `seed=${round + 1}`, ...words], limitMs);
      loads.forEach((load, i) => {
        const result = results[i];
        if (result?.op !== load.op || result.depth !== load.depth)
          throw new Error(`${contender.name}: no result of ${load.name}`);
        const rate = (result.ops * 1e9) / result.ns;
        samples.push({ round, contender: contender.name, workload: load.name, rate, result });
      });
      process.stderr.write('.');
    }
    if (fio === undefined) continue;
    for (const load of loads.filter(isSequential)) {
      samples.push({
        round,
        contender: FIO,
        workload: load.name,
        rate: await fioRate(load.op === 'read' ? disk : scribble, load, options.ms),
      });
    }
  }
  process.stderr.write('\n');
  const rows = loads.flatMap((load) =>
    racing.flatMap(({ name, peer }) => {
      const own = { name, ours: peer !== undefined };
      return [
        ...(peer === undefined ? [] : compare(samples, load, own, peer)),
        ...(fio !== undefined && isSequential(load) ? compare(samples, load, own, FIO) : []),
      ];
    }),
  );
  if (options.json) {
    console.log(JSON.stringify({ qemu: qemu.version, fio, options, rows, samples }, null, 2));
  } else {
    console.log(
      `QEMU ${qemu.version}, ${fio ?? 'no fio'}; ${options.rounds} rounds of ${options.ms} ms; ${disk}`,
    );
    console.table(rows);
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
  await rm(scribble, { force: true });
}
