import type { DiskLoadResult } from '../../test/guests/disk-load.ts';
import { median } from '../support/statistics.ts';
import { isSequential, type Workload } from './workloads.ts';

/** One workload of one contender in one round; fio has the operations alone. */
export type Sample = {
  readonly round: number;
  readonly contender: string;
  readonly workload: string;
  /** operations a second */
  readonly rate: number;
  readonly result?: DiskLoadResult;
};

export type Row = {
  readonly workload: string;
  readonly figure: string;
  readonly contender: string;
  readonly value: number;
  readonly peer: string;
  readonly 'peer value': number;
  readonly ratio: number;
  readonly min: number;
  readonly max: number;
  readonly goal: string;
};

type Figure = {
  readonly name: string;
  readonly of: (sample: Sample) => number;
  /** the ratio that is wanted, and whether it may not be more, or not less */
  readonly goal?: { readonly at: number; readonly most: boolean };
};

const LATENCY_GOAL = { at: 1.2, most: true };
const RATE_GOAL = { at: 1.0, most: false };
const FIO_GOAL = { at: 0.9, most: false };
/** from this depth on the rate is what counts */
const DEEP = 32;
export const FIO = 'fio on the host';

/** What is compared for a workload. Times are in microseconds. */
function figures(load: Workload, peer: string, ours: boolean): Figure[] {
  if (isSequential(load)) {
    const rate = (sample: Sample): number => (sample.rate * load.size) / 1e6;
    return [
      { name: 'MB/s', of: rate, ...(peer === FIO && ours && load.op === 'read' && { goal: FIO_GOAL }) },
    ];
  }
  const rate: Figure = {
    name: 'ops/s',
    of: (sample) => sample.rate,
    ...(load.depth >= DEEP && { goal: RATE_GOAL }),
  };
  if (load.depth > 1) return [rate];
  return [
    { name: 'us, mean', of: (sample) => 1e6 / sample.rate, goal: LATENCY_GOAL },
    { name: 'us, median', of: (sample) => (sample.result?.p50 ?? NaN) / 1000, goal: LATENCY_GOAL },
  ];
}

/** The ratios of a contender to its peer, taken round by round: the machine's speed drifts between rounds. */
export function compare(
  samples: readonly Sample[],
  load: Workload,
  { name: contender, ours }: { readonly name: string; readonly ours: boolean },
  peer: string,
): Row[] {
  const own = samples.filter((sample) => sample.workload === load.name && sample.contender === contender);
  const others = new Map(
    samples
      .filter((sample) => sample.workload === load.name && sample.contender === peer)
      .map((sample) => [sample.round, sample]),
  );
  const pairs = own.flatMap((sample) => {
    const other = others.get(sample.round);
    return other === undefined ? [] : [[sample, other] as const];
  });
  return figures(load, peer, ours).map(({ name, of, goal }) => {
    const ratios = pairs.map(([sample, other]) => of(sample) / of(other));
    const ratio = median(ratios);
    const met = goal && (goal.most ? ratio <= goal.at : ratio >= goal.at);
    return {
      workload: load.name,
      figure: name,
      contender,
      value: round(median(pairs.map(([sample]) => of(sample)))),
      peer,
      'peer value': round(median(pairs.map(([, other]) => of(other)))),
      ratio: Number(ratio.toFixed(2)),
      min: Number(Math.min(...ratios).toFixed(2)),
      max: Number(Math.max(...ratios).toFixed(2)),
      goal: goal ? `${goal.most ? '<=' : '>='} ${goal.at.toFixed(1)} ${met ? 'met' : 'MISSED'}` : '',
    };
  });
}

/** Three digits are more than these figures hold. */
function round(value: number): number {
  return Number(value.toPrecision(3));
}
