export type Workload = {
  readonly name: string;
  readonly op: 'randread' | 'randwrite' | 'read' | 'write';
  readonly size: number;
  readonly depth: number;
};

const KIB = 1024;
const MIB = 1024 * KIB;
const DEPTHS = [1, 8, 32, 128] as const;
/** as many as a kernel's read-ahead and write-back keep in flight */
const SEQUENTIAL_DEPTH = 4;

/** 4 KiB at random at four depths, 1 MiB in sequence; reads and writes each. */
export const WORKLOADS: readonly Workload[] = [
  ...(['randread', 'randwrite'] as const).flatMap((op) =>
    DEPTHS.map((depth) => ({ name: `${op} 4K depth ${depth}`, op, size: 4 * KIB, depth })),
  ),
  ...(['read', 'write'] as const).map((op) => ({
    name: `${op} 1M sequential`,
    op,
    size: MIB,
    depth: SEQUENTIAL_DEPTH,
  })),
];

/** The word of the guest's command line. */
export function runWord({ op, size, depth }: Workload, milliseconds: number): string {
  return `run=${op}:${size}:${depth}:${milliseconds}`;
}

export function isSequential({ op }: Pick<Workload, 'op'>): boolean {
  return op === 'read' || op === 'write';
}
