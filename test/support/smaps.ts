import { readFileSync } from 'node:fs';

/** A mapping of this process. */
export type HostMapping = { readonly start: bigint; readonly size: number; readonly resident: number };

/** The mappings of exactly this size in bytes, which a test chooses so that no other has it. */
export function mappingsOf(size: number): HostMapping[] {
  const found: HostMapping[] = [];
  for (const part of readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(part);
    if (range === null) continue;
    const start = BigInt(`0x${range[1]!}`);
    if (Number(BigInt(`0x${range[2]!}`) - start) !== size) continue;
    found.push({ start, size, resident: Number(/^Rss: +(\d+) kB$/m.exec(part)?.[1]) * 1024 });
  }
  return found;
}

/** Bytes of the mappings of this size that are in the host's memory; one that was closed has none. */
export function residentOf(size: number): number {
  return mappingsOf(size).reduce((sum, { resident }) => sum + resident, 0);
}
