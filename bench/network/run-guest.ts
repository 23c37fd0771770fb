import { execa } from 'execa';
import { fieldOf } from '../../test/guests/disk-load.ts';
import type { Contender } from './contenders.ts';

export type Result = {
  readonly op: string;
  readonly size: number;
  /** frames, in so many nanoseconds */
  readonly count: number;
  readonly ns: number;
  /** of a request and its answer, in nanoseconds; 0 for other workloads */
  readonly p50: number;
  readonly p99: number;
  readonly notifications: number;
};

const NUMBERS = ['size', 'count', 'ns', 'p50', 'p99', 'notifications'] as const;

/** Runs the guest program and returns its results. @throws where it fails */
export async function runGuest(
  contender: Contender,
  words: readonly string[],
  limitMs: number,
): Promise<Result[]> {
  const [command, ...args] = await contender.command(words);
  const { env } = contender;
  const { all } = await execa(command, args, {
    env,
    stdin: 'ignore',
    timeout: limitMs,
    reject: false,
    all: true,
  });
  const lines = all.split('\n').map((line) => line.trim());
  // QEMU's exit device makes an odd status of every end, so the program's last word counts.
  if (!lines.includes('end')) throw new Error(`${contender.name} did not finish:\n${all.slice(-2000)}`);
  return lines.filter((line) => line.startsWith('result ')).map(parse);
}

function parse(line: string): Result {
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, Number(fieldOf(line, name))])) as Record<
    (typeof NUMBERS)[number],
    number
  >;
  if (Object.values(numbers).some((value) => !Number.isFinite(value)))
    throw new RangeError(`a number is missing in '${line}'`);
  return { op: fieldOf(line, 'op') ?? '', ...numbers };
}
