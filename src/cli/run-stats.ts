import type { RunningVm } from '../vmm/types.ts';

/**
 * What the guest has accessed since its last boot, the device that made it wait most first; devices with several
 * regions are one line. A wait is an access that a vCPU could not go on from until JavaScript had answered.
 */
export function formatStats(vm: Pick<RunningVm, 'accessCounts' | 'exitCounts'>): string {
  const devices = new Map<string, { reads: number; writes: number; waits: number }>();
  const total = { reads: 0, writes: 0, waits: 0 };
  for (const { device, reads, writes, waits } of vm.accessCounts()) {
    const row = devices.get(device) ?? { reads: 0, writes: 0, waits: 0 };
    for (const sum of [row, total]) {
      sum.reads += reads;
      sum.writes += writes;
      sum.waits += waits;
    }
    devices.set(device, row);
  }
  const rows = [...devices]
    .filter(([, { reads, writes }]) => reads + writes > 0)
    .sort(([, a], [, b]) => b.waits - a.waits || b.reads + b.writes - a.reads - a.writes);
  const line = (name: string, ...values: readonly (string | number)[]): string =>
    `${name.padEnd(32)}${values.map((value) => String(value).padStart(10)).join('')}`;
  const exits = [...vm.exitCounts()].sort(([, a], [, b]) => b - a);
  return [
    line('device', 'reads', 'writes', 'waits'),
    ...rows.map(([name, { reads, writes, waits }]) => line(name, reads, writes, waits)),
    line('in all', total.reads, total.writes, total.waits),
    `exits: ${exits.map(([reason, count]) => `${reason} ${count}`).join(', ')}`,
  ].join('\n');
}
