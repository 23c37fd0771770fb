/** Where the blocks of a file are: a list of extents in the inode, or a B+tree of them. */
import { u64be, viewOf } from '../bytes.ts';
import { corrupt } from '../error.ts';
import type { XfsBlocks } from './blocks.ts';
import { FORMAT, type XfsInode } from './inode.ts';

/** `block` is undefined where there are zeros that lie nowhere. */
export type XfsRun = { readonly block: number | undefined; readonly count: number };

const RECORD = 16;
const KEY = 8;
const ROOT_HEADER = 4;
const MAGIC_V4 = 0x424d_4150;
const MAGIC_V5 = 0x424d_4133;
const HEADER_V4 = 24;
const HEADER_V5 = 72;
/** For as many extents as there can be, five levels do. */
const MAX_LEVELS = 9;
/** Offsets have 54 bits, in blocks. */
const END = 2 ** 53;

export async function xfsRun(blocks: XfsBlocks, inode: XfsInode, at: number): Promise<XfsRun> {
  const { fork, format, extentCount } = inode;
  if (format === FORMAT.extents) {
    if (extentCount * RECORD > fork.length)
      throw corrupt(`inode ${inode.number} of XFS has ${extentCount} extents`);
    return runIn(viewOf(fork), 0, extentCount, at, END);
  }
  if (format !== FORMAT.tree) throw corrupt(`inode ${inode.number} of XFS is of the format ${format}`);
  const { blockSize, version } = blocks.superblock;
  let view = viewOf(fork);
  let level = view.getUint16(0);
  let count = view.getUint16(2);
  let header = ROOT_HEADER;
  let end = END;
  if (level < 1 || level > MAX_LEVELS) throw corrupt(`an extent tree of XFS has ${level} levels`);
  while (level > 0) {
    const room = Math.floor((view.byteLength - header) / RECORD);
    if (count === 0 || count > room) throw corrupt(`a node of an extent tree of XFS has ${count} entries`);
    const index = Math.max(
      0,
      lastUpTo(count, at, (i) => u64be(view, header + i * KEY)),
    );
    const next = index + 1 < count ? u64be(view, header + (index + 1) * KEY) : end;
    if (next > at) end = Math.min(end, next);
    view = viewOf(await blocks.read(u64be(view, header + room * KEY + index * KEY)));
    header = version === 5 ? HEADER_V5 : HEADER_V4;
    if (view.getUint32(0) !== (version === 5 ? MAGIC_V5 : MAGIC_V4) || view.getUint16(4) !== level - 1)
      throw corrupt('a node of an extent tree of XFS is none');
    level--;
    count = view.getUint16(6);
  }
  if (header + count * RECORD > blockSize)
    throw corrupt(`a leaf of an extent tree of XFS has ${count} entries`);
  return runIn(view, header, count, at, end);
}

/** A record: 1 bit unwritten, 54 bits place in the file, 52 bits block, 21 bits length. */
function runIn(view: DataView, start: number, count: number, at: number, end: number): XfsRun {
  const firstOf = (i: number): number => {
    const record = start + i * RECORD;
    return (view.getUint32(record) & 0x7fff_ffff) * 2 ** 23 + (view.getUint32(record + 4) >>> 9);
  };
  const index = lastUpTo(count, at, firstOf);
  const next = index + 1 < count ? firstOf(index + 1) : end;
  const hole = { block: undefined, count: Math.max(1, next - at) };
  if (index < 0) return hole;
  const record = start + index * RECORD;
  const length = view.getUint32(record + 12) & 0x1f_ffff;
  const skip = at - firstOf(index);
  if (skip >= length) return hole;
  const block =
    (view.getUint32(record + 4) & 0x1ff) * 2 ** 43 +
    view.getUint32(record + 8) * 2 ** 11 +
    (view.getUint32(record + 12) >>> 21);
  const isUnwritten = view.getUint32(record) >>> 31 === 1;
  return { block: isUnwritten ? undefined : block + skip, count: length - skip };
}

/** The last of `count` numbers that is no more than `at`; -1 where none is. */
function lastUpTo(count: number, at: number, numberOf: (index: number) => number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (numberOf(middle) <= at) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
