/**
 * Snapshots of a running guest and restores, tsvm against QEMU's migration into a file: the same guest program, memory
 * and folder, in turn. It needs no guest kernel. `npm run bench:snapshot -- --help`.
 */
import { Command, InvalidArgumentError } from 'commander';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../src/boot/layout.ts';
import { buildGuestProgram } from '../../test/guests/build.ts';
import { findQemu } from '../../test/lab/qemu.ts';
import { count, warnIfBusy } from '../support/options.ts';
import { median } from '../support/statistics.ts';
import { OURS, PEER, qemuMachine, tsvm, type Contender } from './contenders.ts';

/** A restored guest looks at so much of its memory, where it has twice of it. */
const TOUCH = 128 * MIB;
/** in milliseconds, from when the VMM is told what to restore to the guest's first instruction */
const GOAL_INSIDE = 5;

const sizes = (text: string): number[] =>
  text.split(',').map((each) => {
    const size = Number(each);
    if (!Number.isInteger(size) || size < 64 || size > 2 ** 16)
      throw new InvalidArgumentError('64 to 65536 MiB');
    return size * MIB;
  });

const options = new Command('npm run bench:snapshot --')
  .description('Times snapshots and restores of a guest program under tsvm and under QEMU, by memory size.')
  .option('--rounds <n>', 'rounds, each with a run of every contender', count, 7)
  .option(
    '--sizes <MiB,...>',
    'memory of the guest',
    sizes,
    [128, 512, 2048, 8192].map((size) => size * MIB),
  )
  .option('--folder <path>', 'where snapshots are written; default a temporary one')
  .option('--json', 'print all samples as JSON')
  .parse()
  .opts<{ rounds: number; sizes: number[]; folder?: string; json?: true }>();

const FIGURES = {
  stop: 'create: the guest stands still',
  liveStop: 'create --live: the guest stands still',
  space: 'space of the snapshot, MiB',
  entered: 'restore: first instruction, inside the VMM',
  again: 'restore: first instruction, inside a VMM that has restored before',
  inside: 'restore: first byte, inside the VMM',
  first: 'restore: first byte, from the start of the process',
  touched: 'restore: working set touched, from the start of the process',
  enteredPrefetched: 'restore, prefetched: first instruction, inside the VMM',
  touchedPrefetched: 'restore, prefetched: working set touched, from the start of the process',
} as const;
type Figure = keyof typeof FIGURES;
const GOALS: ReadonlySet<Figure> = new Set(['entered', 'again']);
type Sample = {
  readonly round: number;
  readonly memory: number;
  readonly contender: string;
  readonly figure: Figure;
  /** in milliseconds, and MiB of space */
  readonly value: number;
};

warnIfBusy();
const program = await buildGuestProgram('snapshot-load');
const qemu = await findQemu();
const scratch = await mkdtemp(join(options.folder ?? tmpdir(), 'tsvm-bench-'));
const samples: Sample[] = [];
try {
  for (const memory of options.sizes) {
    const setting = { program, qemu, scratch, memory, touch: Math.min(TOUCH, memory / 2) };
    const racing = [await tsvm(setting), await qemuMachine(setting)];
    for (let round = 0; round < options.rounds; round++) {
      // Who goes first changes: the machine's speed drifts.
      for (const contender of round % 2 === 0 ? racing : racing.toReversed())
        await measure(contender, memory, round);
      process.stderr.write('.');
    }
  }
  process.stderr.write('\n');
  const rows = options.sizes.flatMap((memory) =>
    (Object.keys(FIGURES) as Figure[]).map((figure) => row(memory, figure)),
  );
  if (options.json) console.log(JSON.stringify({ qemu: qemu.version, options, rows, samples }, null, 2));
  else {
    console.log(
      `QEMU ${qemu.version}; ${options.rounds} rounds; medians in milliseconds; files in the page cache`,
    );
    console.table(rows);
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
}

async function measure(contender: Contender, memory: number, round: number): Promise<void> {
  const add = (figure: Figure, value: number | undefined): void => {
    if (value !== undefined) samples.push({ round, memory, contender: contender.name, figure, value });
  };
  add('stop', (await contender.create(false)).stop);
  // QEMU goes on by itself only from a machine that ran.
  const { stop, space } = await contender.create(true);
  add('liveStop', stop);
  add('space', space / MIB);
  const plain = await contender.restore();
  add('entered', plain.inside?.entered);
  add('again', plain.inside?.again);
  add('inside', plain.inside?.first);
  add('first', plain.first);
  add('touched', plain.touched);
  // Against the same of QEMU, which has one way only.
  const prefetched = (await contender.prefetched?.()) ?? plain;
  add('enteredPrefetched', prefetched.inside?.entered);
  add('touchedPrefetched', prefetched.touched);
}

/** Ratios are taken round by round; above 1 ours is better. */
function row(memory: number, figure: Figure): Record<string, string | number> {
  const of = (contender: string): number[] =>
    samples
      .filter((each) => each.contender === contender && each.memory === memory && each.figure === figure)
      .map(({ value }) => value);
  const own = of(OURS);
  const others = of(PEER);
  const ratios = others.map((value, i) => value / own[i]!);
  const round = (value: number): number => Number(value.toPrecision(3));
  const value = median(own);
  return {
    MiB: memory / MIB,
    figure: FIGURES[figure],
    [OURS]: round(value),
    [PEER]: others.length === 0 ? '' : round(median(others)),
    ratio: others.length === 0 ? '' : round(median(ratios)),
    min: others.length === 0 ? '' : round(Math.min(...ratios)),
    max: others.length === 0 ? '' : round(Math.max(...ratios)),
    goal: GOALS.has(figure) ? `<= ${GOAL_INSIDE} ${value <= GOAL_INSIDE ? 'met' : 'MISSED'}` : '',
  };
}
