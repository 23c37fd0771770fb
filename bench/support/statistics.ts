/** Figures of several runs, as benchmarks print them. Times are in milliseconds. */
export type Summary = {
  readonly name: string;
  readonly runs: number;
  /** runs that gave no figure */
  readonly missing: number;
  readonly min: number;
  readonly median: number;
  readonly max: number;
};

export type Ratio = {
  readonly name: string;
  readonly min: number;
  readonly median: number;
  readonly max: number;
};

const round = (value: number, digits: number): number => Number(value.toFixed(digits));

/** NaN of an empty list. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function summarize(name: string, values: readonly (number | null)[], runs: number): Summary {
  const present = values.filter((value) => value !== null);
  return {
    name,
    runs,
    missing: runs - present.length,
    min: round(Math.min(...present), 1),
    median: round(median(present), 1),
    max: round(Math.max(...present), 1),
  };
}

/** The ratio of each contender to the peer, taken round by round: the machine's speed drifts between rounds. */
export function ratioRows(
  names: readonly string[],
  peer: string,
  runs: readonly { readonly round: number; readonly name: string; readonly value: number | null }[],
): Ratio[] {
  const peers = new Map(runs.filter(({ name }) => name === peer).map(({ round, value }) => [round, value]));
  return names.map((name) => {
    const ratios = runs.flatMap((run) => {
      const other = peers.get(run.round);
      return run.name === name && run.value !== null && typeof other === 'number' ? [run.value / other] : [];
    });
    return {
      name,
      min: round(Math.min(...ratios), 2),
      median: round(median(ratios), 2),
      max: round(Math.max(...ratios), 2),
    };
  });
}
