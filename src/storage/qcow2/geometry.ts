import { MAX_L1_BYTES } from './format.ts';

/** Sizes that follow from the header; all in bytes unless the name says what they count. */
export type Geometry = {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** of an L2 entry: 8, extended ones 16 */
  readonly entrySize: 8 | 16;
  /** what one L2 table maps */
  readonly l2Entries: number;
  readonly l2Coverage: number;
  /** 1 without extended L2 entries */
  readonly subclusters: 1 | 32;
  readonly subclusterSize: number;
  /** unit of the metadata caches: a table, or a part of a large one */
  readonly pageSize: number;
  readonly pageEntries: number;
  readonly pageCoverage: number;
  readonly refcountBits: number;
  /** clusters that one refcount block counts */
  readonly blockEntries: number;
};

/**
 * Tables larger than this are cached in parts: an L2 table of 2 MiB maps 512 GiB, of which a guest may use little.
 */
const MAX_PAGE = 65536;

export function geometryOf(
  version: 2 | 3,
  clusterBits: number,
  refcountOrder: number,
  extendedL2: boolean,
): Geometry {
  const clusterSize = 2 ** clusterBits;
  const entrySize = extendedL2 ? 16 : 8;
  const subclusters = extendedL2 ? 32 : 1;
  const pageSize = Math.min(clusterSize, MAX_PAGE);
  const l2Entries = clusterSize / entrySize;
  const refcountBits = 2 ** refcountOrder;
  return {
    version,
    clusterBits,
    clusterSize,
    entrySize,
    l2Entries,
    l2Coverage: l2Entries * clusterSize,
    subclusters,
    subclusterSize: clusterSize / subclusters,
    pageSize,
    pageEntries: pageSize / entrySize,
    pageCoverage: (pageSize / entrySize) * clusterSize,
    refcountBits,
    blockEntries: (clusterSize * 8) / refcountBits,
  };
}

/** Entries that an L1 table needs for a disk of `size` bytes. */
export const l1EntriesFor = (geometry: Geometry, size: number): number =>
  Math.ceil(size / geometry.l2Coverage);

/** The largest disk that fits the limit of the L1 table, in bytes; above 2^53 for large clusters. */
export const maxDiskSize = (geometry: Geometry): number =>
  Math.min((MAX_L1_BYTES / 8) * geometry.l2Coverage, Number.MAX_SAFE_INTEGER - geometry.l2Coverage);
