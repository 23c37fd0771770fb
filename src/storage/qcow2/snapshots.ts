import { StorageError } from '../disk.ts';
import { alignUp, MAX_L1_BYTES } from './format.ts';
import { readU64, viewOf, type Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { readFully } from './sync-read.ts';

/** An internal snapshot ("Snapshots"); they are kept as they are. */
export type Snapshot = {
  readonly id: string;
  readonly name: string;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** when it was taken, in seconds since the epoch */
  readonly time: number;
  /** of the machine's saved memory, in bytes */
  readonly stateSize: number;
  /** of the disk, in bytes */
  readonly diskSize: number;
};

const ENTRY = 40;
/** QEMU's limit is larger; what is here bounds time and memory, at a kilobyte for each of the most snapshots. */
const MAX_TABLE = 64 * 2 ** 20;
const MAX_EXTRA = 1024;

/**
 * The directory of snapshots.
 * @returns them, and the length of the directory in bytes
 * @throws StorageError where it makes no sense
 */
export function readSnapshots(file: HostFile, header: Header): { snapshots: Snapshot[]; length: number } {
  const bad = (message: string): StorageError => new StorageError(file.path, 'EBADIMAGE', message);
  const available = Math.min(MAX_TABLE, file.size() - header.snapshotsOffset);
  // Entries are mostly small: no more is read than what they can take, and again where that was too little.
  let bytes = readFully(file, header.snapshotsOffset, Math.min(available, header.snapshotCount * 512));
  const need = (end: number): void => {
    if (end <= bytes.length) return;
    if (end > available) throw bad('the snapshot table is cut off');
    bytes = readFully(file, header.snapshotsOffset, Math.min(available, Math.max(end, 2 * bytes.length)));
    if (end > bytes.length) throw bad('the snapshot table is cut off');
  };
  const snapshots: Snapshot[] = [];
  let at = 0;
  for (let i = 0; i < header.snapshotCount; i++) {
    need(at + ENTRY);
    const view = viewOf(bytes);
    const l1Offset = readU64(view, at);
    const l1Entries = view.getUint32(at + 8);
    const idLength = view.getUint16(at + 12);
    const nameLength = view.getUint16(at + 14);
    const extra = view.getUint32(at + 36);
    if (extra > MAX_EXTRA) throw bad(`snapshot ${i} has too much extra data`);
    if (l1Offset % header.geometry.clusterSize !== 0 || l1Offset > Number.MAX_SAFE_INTEGER / 2)
      throw bad(`the L1 table of snapshot ${i} is not aligned`);
    if (l1Entries * 8 > MAX_L1_BYTES) throw bad(`the L1 table of snapshot ${i} is too large`);
    const strings = at + ENTRY + extra;
    need(strings + idLength + nameLength);
    const whole = viewOf(bytes);
    const text = (start: number, length: number): string =>
      Buffer.from(bytes.subarray(start, start + length)).toString('utf8');
    snapshots.push({
      id: text(strings, idLength),
      name: text(strings + idLength, nameLength),
      l1Offset,
      l1Entries,
      time: whole.getUint32(at + 16),
      stateSize: extra >= 8 ? readU64(whole, at + ENTRY) : whole.getUint32(at + 32),
      diskSize: extra >= 16 ? readU64(whole, at + ENTRY + 8) : header.size,
    });
    at = alignUp(strings + idLength + nameLength, 8);
  }
  return { snapshots, length: at };
}
