/** What the guest program does, see test/guests/net-load/main.c. */
export type Workload = {
  readonly name: string;
  readonly op: 'tx' | 'rx' | 'rr';
  /** bytes of a frame */
  readonly size: number;
};

const SIZES = [
  { size: 64, name: '64 B' },
  { size: 1500, name: '1500 B' },
  { size: 65536, name: '64 KiB' },
] as const;
const OPERATIONS = [
  { op: 'tx', name: 'guest sends' },
  { op: 'rx', name: 'guest receives' },
  { op: 'rr', name: 'request and answer' },
] as const;

export const WORKLOADS: readonly Workload[] = OPERATIONS.flatMap(({ op, name }) =>
  SIZES.map(({ size, name: bytes }) => ({ name: `${name} ${bytes}`, op, size })),
);

/** The word of the guest's command line. */
export function runWord({ op, size }: Workload, milliseconds: number): string {
  return `run=${op}:${size}:${milliseconds}`;
}
