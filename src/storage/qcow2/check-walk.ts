/** Counts all references of an image anew, and compares with what is recorded. */
import { AUTOCLEAR, EXTENSION, toHex } from './format.ts';
import { readU64, viewOf, type Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { KIND, kindOf, L2Entry, readEntry } from './l2-entry.ts';
import { getRefcount } from './refcount-width.ts';
import { readSnapshots } from './snapshots.ts';
import { SparseCounts } from './sparse-counts.ts';
import { readFully } from './sync-read.ts';

const MAX_MESSAGES = 100;
/** L1 entries of all snapshots together: bounds what is held in memory. */
const MAX_L1_ENTRIES = 64 * 2 ** 20;

/** What a walk through the image finds. */
export class Findings {
  readonly messages: string[] = [];
  errors = 0;
  /** errors that counting anew does not mend */
  unfixable = 0;
  leaks = 0;
  /** entries whose COPIED flag is wrong */
  wrongFlags = 0;
  allocated = 0;
  compressed = 0;
  readonly counts = new SparseCounts();
  /** as recorded, where there is a difference: cluster by cluster */
  readonly leaking: number[] = [];

  error(message: string, fixable: boolean): void {
    this.errors++;
    if (!fixable) this.unfixable++;
    this.note(`error: ${message}`);
  }

  note(message: string): void {
    if (this.messages.length < MAX_MESSAGES) this.messages.push(message);
  }
}

/**
 * What several tables share is walked once and counted as often as it is referred to, so that an image cannot make this
 * take longer than reading it through.
 */
export async function walkImage(
  file: HostFile,
  header: Header,
  progress: ((share: number) => void) | undefined,
): Promise<Findings> {
  const found = new Findings();
  const { geometry } = header;
  const { clusterSize } = geometry;
  const fileEnd = Math.ceil(file.size() / clusterSize) * clusterSize;
  const count = (what: string, offset: number, length: number, times = 1): boolean => {
    if (length === 0) return true;
    if (offset % clusterSize !== 0 || offset + length > Number.MAX_SAFE_INTEGER / 2) {
      found.error(`${what} at ${toHex(offset)} is not aligned`, false);
      return false;
    }
    if (offset + length > fileEnd + clusterSize - 1) {
      found.error(`${what} at ${toHex(offset)} is behind the end of the file`, false);
      return false;
    }
    const last = Math.ceil((offset + length) / clusterSize);
    for (let cluster = offset / clusterSize; cluster < last; cluster++) found.counts.add(cluster, times);
    return true;
  };

  count('the header', 0, 1);
  count('the refcount table', header.refcountTableOffset, header.refcountTableClusters * clusterSize);
  const l1s = new Map<string, { offset: number; entries: number; times: number }>();
  const addL1 = (what: string, offset: number, entries: number): void => {
    if (!count(what, offset, entries * 8)) return;
    const key = `${offset}:${entries}`;
    const known = l1s.get(key);
    if (known === undefined) l1s.set(key, { offset, entries, times: 1 });
    else known.times++;
  };
  addL1('the L1 table', header.l1Offset, header.l1Entries);
  if (header.snapshotCount > 0) {
    const { snapshots, length } = readSnapshots(file, header);
    count('the snapshot table', header.snapshotsOffset, length);
    for (const { name, l1Offset, l1Entries } of snapshots)
      addL1(`the L1 table of snapshot ${JSON.stringify(name)}`, l1Offset, l1Entries);
  }
  countBitmaps(file, header, found, count);

  const tables = collectTables(file, header, found, [...l1s.values()]);
  let walked = 0;
  for (const [table, times] of tables) {
    if (count('an L2 table', table, clusterSize, times)) walkTable(file, header, found, table, times, count);
    if (++walked % 64 !== 0) continue;
    progress?.(walked / tables.size);
    await new Promise((resolve) => setImmediate(resolve));
  }
  compareRefcounts(file, header, found, count);
  checkFlags(file, header, found);
  return found;
}

type Count = (what: string, offset: number, length: number, times?: number) => boolean;

/** L2 tables and how many L1 entries refer to each. */
function collectTables(
  file: HostFile,
  header: Header,
  found: Findings,
  l1s: readonly { offset: number; entries: number; times: number }[],
): Map<number, number> {
  const tables = new Map<number, number>();
  let entries = 0;
  for (const l1 of l1s) {
    entries += l1.entries;
    if (entries > MAX_L1_ENTRIES) {
      found.error('the L1 tables of the snapshots are too large to be looked at', false);
      break;
    }
    const view = viewOf(readFully(file, l1.offset, l1.entries * 8));
    for (let at = 0; at + 8 <= view.byteLength; at += 8) {
      const offset =
        (view.getUint32(at) & 0x00ff_ffff) * 2 ** 32 + ((view.getUint32(at + 4) & 0xffff_fe00) >>> 0);
      if (offset !== 0) tables.set(offset, (tables.get(offset) ?? 0) + l1.times);
    }
  }
  return tables;
}

function walkTable(
  file: HostFile,
  header: Header,
  found: Findings,
  table: number,
  times: number,
  count: Count,
): void {
  const { geometry } = header;
  const { clusterSize } = geometry;
  const view = fullCluster(file, table, clusterSize);
  const entry = new L2Entry();
  for (let index = 0; index < geometry.l2Entries; index++) {
    readEntry(geometry, view, index, entry);
    if (entry.invalid) {
      found.error(`entry ${index} of the L2 table at ${toHex(table)} makes no sense`, false);
      continue;
    }
    if (entry.host === 0 && !entry.compressed) continue;
    if (!entry.compressed) {
      count('data', entry.host, clusterSize, times);
      if (kindOf(geometry, entry, 0) === KIND.data || entry.allocated !== 0) found.allocated++;
      continue;
    }
    found.allocated++;
    found.compressed++;
    const first = Math.floor(entry.host / clusterSize) * clusterSize;
    const last = Math.floor((entry.host + entry.compressedSize - 1) / clusterSize) * clusterSize;
    for (let cluster = first; cluster <= last; cluster += clusterSize)
      count('compressed data', cluster, clusterSize, times);
  }
}

export function fullCluster(file: HostFile, offset: number, clusterSize: number): DataView {
  const bytes = new Uint8Array(clusterSize);
  bytes.set(readFully(file, offset, clusterSize));
  return viewOf(bytes);
}

/** "Bitmaps": kept as they are while their autoclear bit says that they are valid. */
function countBitmaps(file: HostFile, header: Header, found: Findings, count: Count): void {
  if ((Number(header.autoclear & 3n) & AUTOCLEAR.bitmaps) === 0) return;
  const data = header.extensions.find(({ type }) => type === EXTENSION.bitmaps)?.data;
  if (data === undefined || data.length < 24) {
    found.error('there are no bitmaps, and a feature bit says there are', false);
    return;
  }
  const bitmaps = viewOf(data).getUint32(0);
  const length = readU64(viewOf(data), 8);
  const offset = readU64(viewOf(data), 16);
  if (length > 64 * 2 ** 20 || bitmaps > 65535) {
    found.error('the bitmap directory is too large', false);
    return;
  }
  if (!count('the bitmap directory', offset, length)) return;
  const directory = viewOf(readFully(file, offset, length));
  let at = 0;
  for (let i = 0; i < bitmaps && at + 24 <= directory.byteLength; i++) {
    const table = readU64(directory, at);
    const entries = directory.getUint32(at + 8);
    if (entries * 8 <= 32 * 2 ** 20 && count('a bitmap table', table, entries * 8)) {
      const view = viewOf(readFully(file, table, entries * 8));
      for (let entry = 0; entry + 8 <= view.byteLength; entry += 8) {
        const cluster =
          (view.getUint32(entry) & 0x00ff_ffff) * 2 ** 32 + ((view.getUint32(entry + 4) & 0xffff_fe00) >>> 0);
        if (cluster !== 0) count('a bitmap', cluster, header.geometry.clusterSize);
      }
    }
    at += Math.ceil((24 + directory.getUint16(at + 18) + directory.getUint32(at + 20)) / 8) * 8;
  }
}

function compareRefcounts(file: HostFile, header: Header, found: Findings, count: Count): void {
  const { clusterSize, blockEntries, refcountBits } = header.geometry;
  const tableBytes = header.refcountTableClusters * clusterSize;
  const table = viewOf(readFully(file, header.refcountTableOffset, tableBytes));
  const blocks: number[] = [];
  const seen = new Set<number>();
  for (let at = 0; at + 8 <= table.byteLength; at += 8) {
    const offset = readU64(table, at);
    if (offset === 0) blocks.push(0);
    else if (seen.has(offset)) {
      found.error(`the refcount block at ${toHex(offset)} is in the table twice`, true);
      blocks.push(0);
    } else blocks.push(count('a refcount block', offset, clusterSize) ? offset : 0);
    seen.add(offset);
  }
  for (const [block, offset] of blocks.entries()) {
    if (offset === 0) continue;
    const view = fullCluster(file, offset, clusterSize);
    for (let i = 0; i < blockEntries; i++) {
      compare(found, block * blockEntries + i, getRefcount(view, i, refcountBits), clusterSize);
    }
  }
  for (const cluster of found.counts.clusters()) {
    if ((blocks[Math.floor(cluster / blockEntries)] ?? 0) === 0) compare(found, cluster, 0, clusterSize);
  }
}

function compare(found: Findings, cluster: number, recorded: number, clusterSize: number): void {
  const counted = found.counts.get(cluster);
  if (recorded === counted) return;
  const what = `the cluster at ${toHex(cluster * clusterSize)} has refcount ${recorded} and ${counted} references`;
  if (recorded < counted) {
    found.error(what, true);
    return;
  }
  found.leaks++;
  found.leaking.push(cluster);
  found.note(`leak: ${what}`);
}

/** The COPIED flags of active tables must tell which clusters have one reference. */
function checkFlags(file: HostFile, header: Header, found: Findings): void {
  forWrongFlags(file, header, found.counts, new Set(found.leaking), (what, offset) => {
    found.wrongFlags++;
    found.error(`${what} at ${toHex(offset)} has a wrong COPIED flag`, true);
  });
}

/**
 * Calls `wrong` for each wrong flag; `table` and `at` are where its entry is.
 * @param leaking clusters whose recorded count is too high: there, no flag is right
 */
export function forWrongFlags(
  file: HostFile,
  header: Header,
  counts: SparseCounts,
  leaking: ReadonlySet<number>,
  wrong: (what: string, target: number, table: number, at: number, high: number) => void,
): void {
  const { geometry } = header;
  const { clusterSize, entrySize } = geometry;
  const l1 = viewOf(readFully(file, header.l1Offset, header.l1Entries * 8));
  const entry = new L2Entry();
  const seen = new Set<number>();
  const isWrong = (offset: number, copied: boolean): boolean => {
    const isOnly = counts.get(offset / clusterSize) === 1;
    return copied !== isOnly && (copied || !leaking.has(offset / clusterSize));
  };
  for (let at = 0; at + 8 <= l1.byteLength; at += 8) {
    const high = l1.getUint32(at);
    const table = (high & 0x00ff_ffff) * 2 ** 32 + ((l1.getUint32(at + 4) & 0xffff_fe00) >>> 0);
    if (table === 0 || table % clusterSize !== 0 || counts.get(table / clusterSize) === 0) continue;
    if (isWrong(table, high >>> 31 === 1)) wrong('the L2 table', table, header.l1Offset, at, high);
    if (seen.has(table)) continue;
    seen.add(table);
    const view = fullCluster(file, table, clusterSize);
    for (let index = 0; index < geometry.l2Entries; index++) {
      readEntry(geometry, view, index, entry);
      if (entry.invalid || entry.compressed || entry.host === 0) continue;
      if (isWrong(entry.host, entry.copied))
        wrong('data', entry.host, table, index * entrySize, view.getUint32(index * entrySize));
    }
  }
}
