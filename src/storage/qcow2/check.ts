/** Consistency of an image that nobody uses. */
import { walkImage } from './check-walk.ts';
import { INCOMPATIBLE } from './format.ts';
import type { HostFile } from './host-file.ts';
import { readHeader } from './open.ts';
import { fixCopiedFlags, lowerRefcounts, rebuildRefcounts } from './repair.ts';

export type CheckResult = {
  /** what is wrong, up to the first hundred */
  readonly messages: readonly string[];
  /** contradictions that put data at risk */
  readonly errors: number;
  /** clusters that count as in use and are not: wasted space only */
  readonly leaks: number;
  readonly errorsFixed: number;
  readonly leaksFixed: number;
  /** guest clusters */
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
  /** end of the last cluster in use, in bytes */
  readonly imageEnd: number;
};

export type CheckOptions = {
  /** `leaks` frees what is wasted; `all` counts anew whatever is wrong. Default: nothing is written */
  readonly repair?: 'leaks' | 'all';
  readonly progress?: (share: number) => void;
};

/**
 * @param file opened for writing where something is to be repaired
 * @throws StorageError where the header alone makes no sense
 */
export async function checkImage(file: HostFile, options: CheckOptions = {}): Promise<CheckResult> {
  const { header } = readHeader(file);
  const found = await walkImage(file, header, options.progress);
  const end = found.counts.end * header.geometry.clusterSize;
  const result = {
    messages: found.messages,
    errors: found.errors,
    leaks: found.leaks,
    errorsFixed: 0,
    leaksFixed: 0,
    totalClusters: Math.ceil(header.size / header.geometry.clusterSize),
    allocatedClusters: found.allocated,
    compressedClusters: found.compressed,
    imageEnd: end,
  };
  const marked = (header.incompatible & (INCOMPATIBLE.dirty | INCOMPATIBLE.corrupt)) !== 0;
  if (options.repair === undefined || (found.errors === 0 && found.leaks === 0 && !marked)) return result;
  if (options.repair === 'leaks' || (found.errors === 0 && !marked)) {
    lowerRefcounts(file, header, found.leaking, found.counts);
    return { ...result, leaksFixed: found.leaks };
  }
  rebuildRefcounts(file, header, found.counts, found.unfixable === 0);
  fixCopiedFlags(file, header, found.counts);
  return { ...result, errorsFixed: found.errors - found.unfixable, leaksFixed: found.leaks };
}
