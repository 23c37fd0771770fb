/** What the guest program disk-load prints, see disk-load/main.c. */
export type DiskLoadResult = {
  readonly op: 'randread' | 'randwrite' | 'read' | 'write';
  /** bytes a request */
  readonly size: number;
  readonly depth: number;
  /** requests completed, in so many nanoseconds */
  readonly ops: number;
  readonly ns: number;
  /** percentiles of a request's time from its place in the ring to its completion, in nanoseconds */
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** how often the device was notified */
  readonly notifications: number;
  /** nanoseconds from the first request to the end of the last, more than what is counted */
  readonly took: number;
};

const NUMBERS = ['size', 'depth', 'ops', 'ns', 'p50', 'p99', 'max', 'notifications', 'took'] as const;

function fields(line: string): Map<string, string> {
  return new Map(
    line.split(' ').flatMap((word) => (word.includes('=') ? [word.split('=', 2) as [string, string]] : [])),
  );
}

/** Reads a `result` line; undefined for all other lines. @throws RangeError where it lacks something */
export function parseResult(line: string): DiskLoadResult | undefined {
  if (!line.startsWith('result ')) return undefined;
  const values = fields(line);
  const op = values.get('op');
  if (op !== 'randread' && op !== 'randwrite' && op !== 'read' && op !== 'write')
    throw new RangeError(`no operation in '${line}'`);
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, Number(values.get(name))])) as Record<
    (typeof NUMBERS)[number],
    number
  >;
  if (Object.values(numbers).some((value) => !Number.isFinite(value)))
    throw new RangeError(`a number is missing in '${line}'`);
  return { op, ...numbers };
}

/** The value of a `name=value` word of a line. */
export function fieldOf(line: string, name: string): string | undefined {
  return fields(line).get(name);
}

/** What the first 8 bytes of each block of 4 KiB hold, little-endian, where the program has written it. */
export function blockStamp(block: number): bigint {
  return BigInt(block) + 1n;
}
