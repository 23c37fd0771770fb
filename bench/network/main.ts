/**
 * virtio-net under tsvm and under QEMU, on the same socket or tap with the same peer in the same run, in turn. A guest
 * program of ours drives the queues, so it needs no guest kernel. `npm run bench:network -- --help`.
 */
import { Command } from 'commander';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildGuestProgram } from '../../test/guests/build.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { tscKhz } from '../devices/tsc.ts';
import { count, warnIfBusy } from '../support/options.ts';
import { median } from '../support/statistics.ts';
import { contenders, OURS, PEER } from './contenders.ts';
import { makeTap, startPeer, type Link } from './peer.ts';
import { runGuest } from './run-guest.ts';
import { runWord, WORKLOADS, type Workload } from './workloads.ts';

/** What JavaScript needs to be compiled, on a busy machine too. */
const WARM_UP_MS = 300;
const START_LIMIT_MS = 60_000;
/** in bytes: a tap's MTU and the frame's header */
const TAP_LARGEST = 1514;

const options = new Command('npm run bench:network --')
  .description('Measures virtio-net under tsvm and QEMU, with a guest program that drives the queues itself.')
  .option('--rounds <n>', 'rounds, each with a run of every contender', count, 7)
  .option('--ms <n>', 'milliseconds that a workload is measured', count, 500)
  .option('--only <text>', 'workloads with this in their names, such as "sends" or "64 B"')
  .option(
    '--tap',
    'a tap for the back end, as root, and frames of up to 1500 B; default: a unix stream socket',
  )
  .option('--json', 'print all samples as JSON')
  .parse()
  .opts<{ rounds: number; ms: number; only?: string; tap?: true; json?: true }>();

type Sample = {
  readonly round: number;
  readonly contender: string;
  readonly workload: string;
  /** frames a second, or microseconds of a request and its answer */
  readonly value: number;
  readonly notifications: number;
};

const isLatency = ({ op }: Workload): boolean => op === 'rr';

warnIfBusy();
const loads = WORKLOADS.filter(
  ({ name, size }) => name.includes(options.only ?? '') && (options.tap === undefined || size <= TAP_LARGEST),
);
if (loads.length === 0) throw new Error(`no workload has '${options.only ?? ''}' in its name`);
const program = await buildGuestProgram('net-load');
const qemu = await findQemu();
const scratch = await mkdtemp(join(tmpdir(), 'tsvm-bench-'));
const link: Link =
  options.tap === undefined
    ? { kind: 'stream', socket: join(scratch, 'peer.sock') }
    : { kind: 'tap', name: `tsvm-b${process.pid % 1e6}` };
const samples: Sample[] = [];
const tap = link.kind === 'tap' ? await makeTap(link.name) : undefined;
const peer = await startPeer(scratch, link);
try {
  const racing = await contenders({ program, link, qemu, scratch });
  const khz = tscKhz();
  const words = [
    ...(khz === undefined ? [] : [`tsc_khz=${khz}`]),
    `warmup=${WARM_UP_MS}`,
    ...loads.map((load) => runWord(load, options.ms)),
  ];
  const limitMs = START_LIMIT_MS + 4 * loads.length * (WARM_UP_MS + options.ms);
  for (let round = 0; round < options.rounds; round++) {
    // Who goes first changes: the machine's speed drifts.
    for (const contender of round % 2 === 0 ? racing : racing.toReversed()) {
      const results = await runGuest(contender, words, limitMs);
      loads.forEach((load, i) => {
        const result = results[i];
        if (result?.op !== load.op || result.size !== load.size || result.count === 0)
          throw new Error(`${contender.name}: no result of ${load.name}`);
        const value = isLatency(load) ? result.p50 / 1000 : (result.count * 1e9) / result.ns;
        const { notifications } = result;
        samples.push({ round, contender: contender.name, workload: load.name, value, notifications });
      });
      process.stderr.write('.');
    }
  }
  process.stderr.write('\n');
  const rows = loads.map(row);
  if (options.json) console.log(JSON.stringify({ qemu: qemu.version, options, rows, samples }, null, 2));
  else {
    console.log(
      `QEMU ${qemu.version}; ${options.rounds} rounds of ${options.ms} ms; ${link.kind === 'tap' ? 'tap' : 'unix stream socket'}`,
    );
    console.table(rows);
  }
} finally {
  peer.close();
  await tap?.remove();
  await rm(scratch, { recursive: true, force: true });
}

/** Ratios are taken round by round; above 1 ours is better, also where less is better. */
function row(load: Workload): Record<string, string | number> {
  const of = (contender: string): number[] =>
    samples
      .filter((each) => each.contender === contender && each.workload === load.name)
      .map(({ value }) => value);
  const own = of(OURS);
  const others = of(PEER);
  const ratios = own.map((value, i) => (isLatency(load) ? others[i]! / value : value / others[i]!));
  const ratio = median(ratios);
  const value = median(own);
  const gigabits = isLatency(load) ? '' : round((value * load.size * 8) / 1e9);
  return {
    workload: load.name,
    figure: isLatency(load) ? 'us, median' : 'frames/s',
    [OURS]: round(value),
    'Gbit/s': gigabits,
    [PEER]: round(median(others)),
    ratio: Number(ratio.toFixed(2)),
    min: Number(Math.min(...ratios).toFixed(2)),
    max: Number(Math.max(...ratios).toFixed(2)),
    goal: `>= 1.0 ${ratio >= 1 ? 'met' : 'MISSED'}`,
  };
}

/** Three digits are more than these figures hold. */
function round(value: number): number {
  return Number(value.toPrecision(3));
}
