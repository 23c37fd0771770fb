/** Writes what a check has counted. Nobody else uses the image. */
import { StorageError } from '../disk.ts';
import { HIGH_COPIED, INCOMPATIBLE, MAX_REFCOUNT_TABLE_BYTES } from './format.ts';
import { fullCluster, forWrongFlags } from './check-walk.ts';
import { readU64, viewOf, writeU64, type Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { getRefcount, setRefcount } from './refcount-width.ts';
import type { SparseCounts } from './sparse-counts.ts';
import { readFully, syncFully, writeFully } from './sync-read.ts';

/** Takes back references that nobody has: in place, as no cluster changes its use. @throws StorageError */
export function lowerRefcounts(
  file: HostFile,
  header: Header,
  leaking: readonly number[],
  counts: SparseCounts,
): void {
  const { clusterSize, blockEntries, refcountBits } = header.geometry;
  const table = viewOf(
    readFully(file, header.refcountTableOffset, header.refcountTableClusters * clusterSize),
  );
  const byBlock = new Map<number, number[]>();
  for (const cluster of leaking) {
    const block = Math.floor(cluster / blockEntries);
    const others = byBlock.get(block);
    if (others === undefined) byBlock.set(block, [cluster]);
    else others.push(cluster);
  }
  for (const [block, clusters] of byBlock) {
    const offset = readU64(table, 8 * block);
    const view = fullCluster(file, offset, clusterSize);
    for (const cluster of clusters) {
      const counted = counts.get(cluster);
      if (getRefcount(view, cluster % blockEntries, refcountBits) > counted)
        setRefcount(view, cluster % blockEntries, refcountBits, counted);
    }
    writeFully(file, offset, bytesOf(view));
  }
  syncFully(file);
}

const bytesOf = (view: DataView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/**
 * A new refcount table with blocks for all that is counted, behind the end of the file; the header then switches
 * over, and loses its dirty bit, with one sector. Whatever was wrong with the old one does not matter.
 * @param counts changed: the old table and blocks are not in use any more, the new ones are
 * @throws StorageError
 */
export function rebuildRefcounts(
  file: HostFile,
  header: Header,
  counts: SparseCounts,
  clearCorrupt: boolean,
): void {
  const { clusterSize, blockEntries, refcountBits } = header.geometry;
  forgetOld(file, header, counts);
  const start = Math.ceil(file.size() / clusterSize);
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const neededBlocks = Math.ceil((start + blocks + tableClusters) / blockEntries);
    const neededTable = Math.ceil((neededBlocks * 8) / clusterSize);
    if (neededBlocks === blocks && neededTable === tableClusters) break;
    blocks = neededBlocks;
    tableClusters = neededTable;
  }
  if (tableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES)
    throw new StorageError(file.path, 'EFBIG', 'the file is too large for these clusters');
  for (let i = 0; i < blocks + tableClusters; i++) counts.add(start + i, 1);
  const most = 2 ** Math.min(refcountBits, 53) - 1;
  const table = viewOf(new Uint8Array(tableClusters * clusterSize));
  const block = viewOf(new Uint8Array(clusterSize));
  for (let i = 0; i < blocks; i++) {
    for (let entry = 0; entry < blockEntries; entry++) {
      setRefcount(block, entry, refcountBits, Math.min(most, counts.get(i * blockEntries + entry)));
    }
    const offset = (start + i) * clusterSize;
    writeFully(file, offset, bytesOf(block));
    writeU64(table, 8 * i, offset);
  }
  const tableOffset = (start + blocks) * clusterSize;
  writeFully(file, tableOffset, bytesOf(table));
  syncFully(file);
  header.refcountTableOffset = tableOffset;
  header.refcountTableClusters = tableClusters;
  header.incompatible &= ~INCOMPATIBLE.dirty;
  if (clearCorrupt) header.incompatible &= ~INCOMPATIBLE.corrupt;
  writeSwitch(file, header);
}

/** The old table and its blocks give up what the walk counted for them. */
function forgetOld(file: HostFile, header: Header, counts: SparseCounts): void {
  const { clusterSize } = header.geometry;
  const first = header.refcountTableOffset / clusterSize;
  const tableBytes = header.refcountTableClusters * clusterSize;
  const table = viewOf(readFully(file, header.refcountTableOffset, tableBytes));
  const seen = new Set<number>();
  for (let at = 0; at + 8 <= table.byteLength; at += 8) {
    const offset = readU64(table, at);
    if (offset === 0 || seen.has(offset) || offset % clusterSize !== 0) continue;
    seen.add(offset);
    counts.takeOne(offset / clusterSize);
  }
  for (let i = 0; i < header.refcountTableClusters; i++) counts.takeOne(first + i);
}

function writeSwitch(file: HostFile, header: Header): void {
  const sector = new Uint8Array(512);
  sector.set(readFully(file, 0, 512));
  const view = viewOf(sector);
  writeU64(view, 48, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  if (header.geometry.version === 3) view.setUint32(76, header.incompatible);
  writeFully(file, 0, sector);
  syncFully(file);
}

/** Sets the flags of the active tables as the counts have it. Only after the counts are in the file. */
export function fixCopiedFlags(file: HostFile, header: Header, counts: SparseCounts): void {
  forWrongFlags(file, header, counts, new Set(), (_what, _target, table, at, high) => {
    const entry = new Uint8Array(4);
    viewOf(entry).setUint32(0, (high ^ HIGH_COPIED) >>> 0);
    writeFully(file, table + at, entry);
  });
  syncFully(file);
}
