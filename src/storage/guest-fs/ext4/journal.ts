/**
 * The journal of ext3 and ext4 (Linux, Documentation/filesystems/ext4/journal.rst; fs/jbd2/recovery.c). Nothing is
 * written back: what was committed to it and not yet to its place is read from the journal.
 */
import { viewOf } from '../bytes.ts';
import { crc32c } from '../crc32c.ts';
import { corrupt } from '../error.ts';
import { JOURNAL_MAGIC, type Logged } from './blocks.ts';

const MAGIC = viewOf(JOURNAL_MAGIC).getUint32(0);
const KIND = { descriptor: 1, commit: 2, superblockV1: 3, superblockV2: 4, revoke: 5 } as const;
const INCOMPAT = { is64bit: 0x2, checksumV2: 0x8, checksumV3: 0x10, fastCommit: 0x20 } as const;
const KNOWN = 0x3f;
const TAG = { escaped: 1, sameUuid: 2, last: 8 } as const;
const HEADER = 12;
const REVOKE_HEADER = 16;
const UUID = 16;
const CHECKSUM_AT = 16;
const DEFAULT_FAST_BLOCKS = 256;
/** mke2fs makes no journal above this, 1 GiB in blocks of 4 KiB, unless told to. */
const MAX_BLOCKS = 2 ** 18;
const MAX_REVOKED = 2 ** 20;

export type Journal = {
  /** what is newer there, by block of the file system */
  readonly newer: ReadonlyMap<number, Logged>;
  readonly notes: readonly string[];
};

/** The journal's blocks, by their number within it. */
export type JournalFile = {
  readonly blockSize: number;
  read(block: number): Promise<Uint8Array>;
  /** which block of the file system it is */
  locate(block: number): Promise<number>;
};

type Log = {
  readonly first: number;
  /** behind the last block */
  readonly end: number;
  readonly incompat: number;
  readonly hasChecksums: boolean;
  readonly seed: number;
};

type Transaction = {
  readonly writes: { readonly block: number; readonly logged: number; readonly isEscaped: boolean }[];
  readonly revoked: number[];
};

/** @throws GuestFsError where it cannot be used */
export async function readJournal(file: JournalFile): Promise<Journal> {
  const bytes = await file.read(0);
  const view = viewOf(bytes);
  const kind = view.getUint32(4);
  if (view.getUint32(0) !== MAGIC || (kind !== KIND.superblockV1 && kind !== KIND.superblockV2))
    throw corrupt('it has no superblock');
  const incompat = kind === KIND.superblockV2 ? view.getUint32(40) : 0;
  if ((incompat & ~KNOWN) !== 0) throw corrupt(`it has unknown features 0x${(incompat >>> 0).toString(16)}`);
  const hasFast = (incompat & INCOMPAT.fastCommit) !== 0;
  const notes = hasFast ? ['fast commits of the journal are not read: the last changes are missing'] : [];
  const start = view.getUint32(28);
  if (start === 0) return { newer: new Map(), notes };
  const fastBlocks = hasFast ? view.getUint32(84) || DEFAULT_FAST_BLOCKS : 0;
  const log: Log = {
    first: view.getUint32(20),
    end: view.getUint32(16) - fastBlocks,
    incompat,
    hasChecksums: (incompat & (INCOMPAT.checksumV2 | INCOMPAT.checksumV3)) !== 0,
    seed: crc32c(bytes.subarray(48, 64), 0xffff_ffff),
  };
  if (view.getUint32(12) !== file.blockSize) throw corrupt('it has another block size');
  if (!(log.first >= 1 && log.first < log.end && start >= log.first && start < log.end))
    throw corrupt('it begins outside of itself');
  if (log.end > MAX_BLOCKS) throw corrupt(`it is too large: ${log.end} blocks of at most ${MAX_BLOCKS}`);
  const transactions = await readTransactions(file, log, start, view.getUint32(24));
  return { newer: await latest(file, transactions), notes };
}

/** Those that are complete, in their order. */
async function readTransactions(
  file: JournalFile,
  log: Log,
  start: number,
  firstId: number,
): Promise<Transaction[]> {
  const transactions: Transaction[] = [];
  const length = log.end - log.first;
  let visited = 0;
  let revoked = 0;
  let id = firstId;
  let current: Transaction = { writes: [], revoked: [] };
  const next = (): number => log.first + ((start - log.first + visited++) % length);
  while (visited < length) {
    const bytes = await file.read(next());
    const view = viewOf(bytes);
    if (view.getUint32(0) !== MAGIC || view.getUint32(8) !== id) break;
    const kind = view.getUint32(4);
    if (log.hasChecksums && !isIntact(bytes, kind, log)) break;
    if (kind === KIND.descriptor) {
      for (const tag of tagsOf(bytes, log)) {
        if (visited >= length) return transactions;
        current.writes.push({ ...tag, logged: next() });
      }
    } else if (kind === KIND.revoke) {
      for (const block of revokedBy(bytes, log)) current.revoked.push(block);
      revoked += current.revoked.length;
      if (revoked > MAX_REVOKED) throw corrupt('it revokes too many blocks');
    } else if (kind === KIND.commit) {
      transactions.push(current);
      current = { writes: [], revoked: [] };
      id = (id + 1) >>> 0;
    } else break;
  }
  return transactions;
}

/** The checksum of a commit is in its header, that of other blocks at their end. */
function isIntact(bytes: Uint8Array, kind: number, { seed }: Log): boolean {
  const at = kind === KIND.commit ? CHECKSUM_AT : bytes.length - 4;
  const copy = Uint8Array.from(bytes);
  copy.fill(0, at, at + 4);
  return crc32c(copy, seed) === viewOf(bytes).getUint32(at);
}

function* tagsOf(bytes: Uint8Array, log: Log): Generator<{ block: number; isEscaped: boolean }> {
  const { incompat, hasChecksums } = log;
  const view = viewOf(bytes);
  const isV3 = (incompat & INCOMPAT.checksumV3) !== 0;
  const is64bit = (incompat & INCOMPAT.is64bit) !== 0;
  const size = isV3 ? 16 : 8 + (is64bit ? 4 : 0) + ((incompat & INCOMPAT.checksumV2) !== 0 ? 2 : 0);
  const end = bytes.length - (hasChecksums ? 4 : 0);
  for (let at = HEADER; at + size <= end;) {
    const flags = isV3 ? view.getUint32(at + 4) : view.getUint16(at + 6);
    const high = is64bit ? view.getUint32(at + 8) : 0;
    yield { block: view.getUint32(at) + high * 2 ** 32, isEscaped: (flags & TAG.escaped) !== 0 };
    if ((flags & TAG.last) !== 0) return;
    at += size + ((flags & TAG.sameUuid) !== 0 ? 0 : UUID);
  }
}

function* revokedBy(bytes: Uint8Array, { incompat, hasChecksums }: Log): Generator<number> {
  const view = viewOf(bytes);
  const size = (incompat & INCOMPAT.is64bit) !== 0 ? 8 : 4;
  const end = Math.min(view.getUint32(HEADER), bytes.length - (hasChecksums ? 4 : 0));
  for (let at = REVOKE_HEADER; at + size <= end; at += size)
    yield size === 8 ? view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4) : view.getUint32(at);
}

/** A revoked block was freed and may be used for something else: what was logged of it up to then does not count. */
async function latest(
  file: JournalFile,
  transactions: readonly Transaction[],
): Promise<ReadonlyMap<number, Logged>> {
  const revokedIn = new Map<number, number>();
  for (const [i, { revoked }] of transactions.entries()) for (const block of revoked) revokedIn.set(block, i);
  const newer = new Map<number, Logged>();
  for (const [i, { writes }] of transactions.entries())
    for (const { block, logged, isEscaped } of writes)
      if ((revokedIn.get(block) ?? -1) < i) newer.set(block, { block: await file.locate(logged), isEscaped });
  return newer;
}
