/** What L2 entries say, for a range of guest clusters at a time ("L2 table entry", "Extended L2 Entries"). */
import { HIGH_COMPRESSED, HIGH_COPIED, HIGH_OFFSET, LOW_OFFSET, LOW_ZERO } from './format.ts';
import type { Geometry } from './geometry.ts';

export const KIND = {
  /** the backing file has it, or it reads as zeros */
  unallocated: 0,
  zero: 1,
  data: 2,
  compressed: 3,
  /** contradicts the format */
  invalid: 4,
} as const;
export type Kind = (typeof KIND)[keyof typeof KIND];

/** One L2 entry. Filled in by {@link readEntry}, to be used again. */
export class L2Entry {
  compressed = false;
  /** refcount 1: it may be written in place */
  copied = false;
  /** of the host cluster; 0 where there is none. Of a compressed one where its data begins */
  host = 0;
  /** of a compressed one, in bytes */
  compressedSize = 0;
  /** bit 0 of the descriptor */
  zeroFlag = false;
  /** subclusters in the host cluster and subclusters that read as zeros, as bits; extended entries only */
  allocated = 0;
  zeros = 0;
  invalid = false;
}

export function readEntry(geometry: Geometry, view: DataView, index: number, entry: L2Entry): void {
  const at = index * geometry.entrySize;
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  const isExtended = geometry.subclusters > 1;
  entry.compressed = (high & HIGH_COMPRESSED) !== 0;
  entry.zeros = isExtended ? view.getUint32(at + 8) : 0;
  entry.allocated = isExtended ? view.getUint32(at + 12) : 0;
  if (entry.compressed) {
    readCompressed(geometry.clusterBits, high, low, entry);
    return;
  }
  entry.copied = high >>> 31 === 1;
  entry.host = (high & HIGH_OFFSET) * 2 ** 32 + ((low & LOW_OFFSET) >>> 0);
  entry.zeroFlag = (low & LOW_ZERO) !== 0;
  entry.invalid =
    entry.host % geometry.clusterSize !== 0 ||
    entry.host > Number.MAX_SAFE_INTEGER / 2 ||
    (entry.zeroFlag && (geometry.version === 2 || isExtended)) ||
    (entry.allocated & entry.zeros) !== 0 ||
    (entry.allocated !== 0 && entry.host === 0);
}

/** "Compressed Clusters Descriptor" */
function readCompressed(clusterBits: number, high: number, low: number, entry: L2Entry): void {
  const sectorBits = clusterBits - 8;
  // The number of sectors is at the top of the lower 62 bits: all of it is in the high half.
  const shift = 30 - sectorBits;
  const sectors = (high & 0x3fff_ffff) >>> shift;
  const host = (high & (2 ** shift - 1)) * 2 ** 32 + low;
  entry.copied = false;
  entry.zeroFlag = false;
  entry.host = host;
  entry.compressedSize = (sectors + 1) * 512 - (host % 512);
  entry.invalid = high >>> 31 === 1 || host > Number.MAX_SAFE_INTEGER / 2;
}

/** @param host 0 for none @param zeros and @param allocated of extended entries */
export function writeEntry(
  geometry: Geometry,
  view: DataView,
  index: number,
  host: number,
  zeroFlag: boolean,
  zeros = 0,
  allocated = 0,
): void {
  const at = index * geometry.entrySize;
  view.setUint32(at, host === 0 ? 0 : (Math.floor(host / 2 ** 32) | HIGH_COPIED) >>> 0);
  view.setUint32(at + 4, (host % 2 ** 32) + (zeroFlag ? LOW_ZERO : 0));
  if (geometry.entrySize === 8) return;
  view.setUint32(at + 8, zeros);
  view.setUint32(at + 12, allocated);
}

/** @param size of the compressed data in bytes @param host where it begins */
export function writeCompressedEntry(
  geometry: Geometry,
  view: DataView,
  index: number,
  host: number,
  size: number,
): void {
  const at = index * geometry.entrySize;
  const shift = 30 - (geometry.clusterBits - 8);
  const sectors = Math.floor((host + size - 1) / 512) - Math.floor(host / 512);
  view.setUint32(at, (HIGH_COMPRESSED | (sectors << shift) | Math.floor(host / 2 ** 32)) >>> 0);
  view.setUint32(at + 4, host % 2 ** 32);
  if (geometry.entrySize === 16) {
    view.setUint32(at + 8, 0);
    view.setUint32(at + 12, 0);
  }
}

/** Bits of the subclusters from `first` up to and without `end`. */
export const subclusterMask = (first: number, end: number): number =>
  (end === 32 ? 0xffff_ffff : 2 ** end - 1) & ~(2 ** first - 1);

export function kindOf(geometry: Geometry, entry: L2Entry, subcluster: number): Kind {
  if (entry.invalid) return KIND.invalid;
  if (entry.compressed) return KIND.compressed;
  if (geometry.subclusters > 1) {
    if (((entry.zeros >>> subcluster) & 1) !== 0) return KIND.zero;
    return ((entry.allocated >>> subcluster) & 1) !== 0 ? KIND.data : KIND.unallocated;
  }
  if (entry.zeroFlag) return KIND.zero;
  return entry.host === 0 ? KIND.unallocated : KIND.data;
}

/** A range of the disk that is kept in one way. Filled in by {@link findExtent}. */
export class Extent {
  kind: Kind = KIND.unallocated;
  /** in bytes */
  length = 0;
  /** where data is in the image; where compressed data begins */
  host = 0;
  copied = false;
  readonly entry = new L2Entry();
}

const probe = new L2Entry();

/**
 * The extent from `offset` on, at most `length` bytes and within the page.
 * @param view the page of the L2 table that `offset` is in
 */
export function findExtent(
  geometry: Geometry,
  view: DataView,
  offset: number,
  length: number,
  out: Extent,
): void {
  const { clusterSize, subclusterSize, subclusters, pageEntries } = geometry;
  let index = Math.floor(offset / clusterSize) % pageEntries;
  const inCluster = offset % clusterSize;
  let subcluster = Math.floor(inCluster / subclusterSize);
  const { entry } = out;
  readEntry(geometry, view, index, entry);
  const kind = kindOf(geometry, entry, subcluster);
  out.kind = kind;
  out.copied = entry.copied;
  out.host = kind === KIND.data ? entry.host + inCluster : entry.host;
  if (kind === KIND.compressed || kind === KIND.invalid) {
    out.length = Math.min(length, clusterSize - inCluster);
    return;
  }
  let found = subclusterSize - (offset % subclusterSize);
  let current = entry;
  while (found < length) {
    subcluster++;
    if (subcluster >= subclusters) {
      subcluster = 0;
      if (++index === pageEntries) break;
      readEntry(geometry, view, index, probe);
      current = probe;
      if (kind === KIND.data && (probe.host !== out.host + found || probe.copied !== out.copied)) break;
    }
    if (kindOf(geometry, current, subcluster) !== kind) break;
    found += subclusterSize;
  }
  out.length = Math.min(found, length);
}
