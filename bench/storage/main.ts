/**
 * Random I/O on qcow2 images of several layouts, under tsvm and under QEMU with the same image in the same run, and
 * under tsvm on a raw file. The guest program of bench/devices drives the queue. `npm run bench:storage -- --help`.
 */
import { Command } from 'commander';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheRoot } from '../../images/debian/cache.ts';
import { MIB } from '../../src/boot/layout.ts';
import { buildGuestProgram } from '../../test/guests/build.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { contenders, type Contender } from '../devices/contenders.ts';
import { runGuest } from '../devices/run-guest.ts';
import { tscKhz } from '../devices/tsc.ts';
import { isSequential, runWord, WORKLOADS, type Workload } from '../devices/workloads.ts';
import { count, warnIfBusy } from '../support/options.ts';
import { median, ratioRows } from '../support/statistics.ts';
import { layouts, type Layout } from './images.ts';

/** Until V8 has compiled what a request goes through: a VM runs for longer than that. */
const WARM_UP_MS = 500;
const START_LIMIT_MS = 60_000;
/** from this depth on the goals hold */
const DEEP = 8;
const QEMU_GOAL = 1.0;
const RAW_GOAL = 0.9;

const options = new Command('npm run bench:storage --')
  .description('Measures virtio-blk on qcow2 images under tsvm, against QEMU and against our own raw.')
  .option('--rounds <n>', 'rounds, each with a run of every contender on every layout', count, 5)
  .option('--ms <n>', 'milliseconds that a workload is measured', count, 1000)
  .option('--size <MiB>', 'of the disk; random writes must not fill it while they are measured', count, 1024)
  .option('--only <text>', 'workloads with this in their names, such as "depth 8"')
  .option('--layout <text>', 'layouts with this in their names, and raw')
  .option('--json', 'print all samples as JSON')
  .parse()
  .opts<{ rounds: number; ms: number; size: number; only?: string; layout?: string; json?: true }>();

type Sample = {
  readonly round: number;
  readonly name: string;
  readonly load: string;
  readonly value: number;
};

warnIfBusy();
const loads = WORKLOADS.filter((load) => !isSequential(load) && load.name.includes(options.only ?? ''));
const reads = loads.filter(({ op }) => op === 'randread');
const writes = loads.filter(({ op }) => op === 'randwrite');
const program = await buildGuestProgram('disk-load');
const qemu = await findQemu();
const scratch = await mkdtemp(join(tmpdir(), 'tsvm-bench-'));
const folder = join(cacheRoot(), 'bench', 'storage');
const khz = tscKhz();
const samples: Sample[] = [];

/** One run: reads leave the image as it is, but each load that writes finds a new one. */
async function measure(contender: Contender, layout: Layout, run: readonly Workload[], round: number) {
  const words = [
    ...(khz === undefined ? [] : [`tsc_khz=${khz}`]),
    ...(layout.stamped ? ['stamped=1'] : []),
    ...[`seed=${round + 1}`, `warmup=${WARM_UP_MS}`],
    ...run.map((load) => runWord(load, options.ms)),
  ];
  const limitMs = START_LIMIT_MS + 4 * run.length * (WARM_UP_MS + options.ms);
  const results = await runGuest(contender, words, limitMs);
  run.forEach((load, i) => {
    const result = results[i];
    if (result === undefined) throw new Error(`${contender.name}: no result of ${load.name}`);
    const name = `${contender.name}: ${layout.name}`;
    samples.push({ round, name, load: load.name, value: (result.ops * 1e9) / result.ns });
  });
}

try {
  const all = await layouts(folder, options.size * MIB);
  const wanted = all.filter(({ name, format }) => format === 'raw' || name.includes(options.layout ?? ''));
  for (let round = 0; round < options.rounds; round++) {
    for (const layout of wanted) {
      for (const run of [reads, ...writes.map((load) => [load])]) {
        if (run.length === 0) continue;
        const names = layout.format === 'raw' ? ['tsvm pci'] : ['tsvm pci', 'qemu q35'];
        // Who goes first changes: the machine's speed drifts.
        for (const name of round % 2 === 0 ? names : names.toReversed()) {
          const disk = await layout.fresh();
          const racing = await contenders({ program, disk, format: layout.format, qemu, scratch });
          await measure(
            racing.find((each) => each.name === name)!,
            layout,
            run,
            round,
          );
        }
      }
      process.stderr.write('.');
    }
  }
  process.stderr.write('\n');
  const rows = loads.flatMap((load) => wanted.flatMap((layout) => rowsOf(load, layout)));
  if (options.json) console.log(JSON.stringify({ qemu: qemu.version, options, rows, samples }, null, 2));
  else {
    console.log(
      `QEMU ${qemu.version}; ${options.rounds} rounds of ${options.ms} ms; ${options.size} MiB in ${folder}`,
    );
    console.table(rows);
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
}

function rowsOf(load: Workload, layout: Layout) {
  if (layout.format === 'raw') return [];
  const own = `tsvm pci: ${layout.name}`;
  const peers = [
    { peer: `qemu q35: ${layout.name}`, goal: load.depth >= DEEP ? QEMU_GOAL : undefined },
    ...(layout.name === 'allocated' ? [{ peer: 'tsvm pci: raw', goal: RAW_GOAL }] : []),
  ];
  const ofLoad = samples.filter((sample) => sample.load === load.name);
  const kops = (name: string): number =>
    Number((median(ofLoad.filter((s) => s.name === name).map(({ value }) => value)) / 1000).toPrecision(3));
  return peers.map(({ peer, goal }) => {
    const ratio = ratioRows([own], peer, ofLoad)[0]!;
    return {
      workload: load.name,
      layout: layout.name,
      'kops/s': kops(own),
      peer: peer.replace(`: ${layout.name}`, ''),
      'peer kops/s': kops(peer),
      ratio: ratio.median,
      min: ratio.min,
      max: ratio.max,
      goal: goal === undefined ? '' : `>= ${goal.toFixed(1)} ${ratio.median >= goal ? 'met' : 'MISSED'}`,
    };
  });
}
