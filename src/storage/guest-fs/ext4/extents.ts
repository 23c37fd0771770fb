/** Where the blocks of a file are: by extents (ext4), or by the block map of ext2. */
import { viewOf } from '../bytes.ts';
import { corrupt } from '../error.ts';
import type { Blocks } from './blocks.ts';

/** Blocks of a file that lie one after the other; `block` is undefined where they are zeros that lie nowhere. */
export type Run = { readonly block: number | undefined; readonly count: number };

const EXTENT_MAGIC = 0xf30a;
/** ext4 itself makes no tree deeper than this. */
const MAX_DEPTH = 5;
/** Longer ones are allocated and not written yet: zeros. */
const MAX_WRITTEN = 32768;
const HEADER = 12;
const ENTRY = 12;
const ALL = 2 ** 32;

/**
 * @param root what the inode has in the place of a block map, 60 bytes
 * @param at block of the file
 */
export async function extentRun(blocks: Blocks, root: Uint8Array, at: number): Promise<Run> {
  let bytes = root;
  let expected: number | undefined;
  /** where what this part of the tree knows of ends */
  let end = ALL;
  for (;;) {
    const view = viewOf(bytes);
    const count = view.getUint16(2, true);
    const depth = view.getUint16(6, true);
    if (view.getUint16(0, true) !== EXTENT_MAGIC)
      throw corrupt('a node of an extent tree has a wrong magic number');
    if (depth > MAX_DEPTH || (expected !== undefined && depth !== expected))
      throw corrupt(`an extent tree has a node of depth ${depth} in the wrong place`);
    if (HEADER + count * ENTRY > bytes.length) throw corrupt(`a node of an extent tree has ${count} entries`);
    const index = lastUpTo(view, count, at);
    const next = index + 1 < count ? view.getUint32(HEADER + (index + 1) * ENTRY, true) : end;
    if (next > at) end = Math.min(end, next);
    if (index < 0) return { block: undefined, count: Math.max(1, end - at) };
    const entry = HEADER + index * ENTRY;
    if (depth === 0) return leafRun(view, entry, at, end);
    bytes = await blocks.read(view.getUint32(entry + 4, true) + view.getUint16(entry + 8, true) * 2 ** 32);
    expected = depth - 1;
  }
}

function leafRun(view: DataView, entry: number, at: number, end: number): Run {
  const first = view.getUint32(entry, true);
  const length = view.getUint16(entry + 4, true);
  const isWritten = length <= MAX_WRITTEN;
  const last = first + (isWritten ? length : length - MAX_WRITTEN);
  if (at >= last) return { block: undefined, count: Math.max(1, end - at) };
  const start = view.getUint32(entry + 8, true) + view.getUint16(entry + 6, true) * 2 ** 32;
  return { block: isWritten ? start + at - first : undefined, count: last - at };
}

/** The last entry that begins at a block up to this one; -1 where none does. */
function lastUpTo(view: DataView, count: number, at: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (view.getUint32(HEADER + middle * ENTRY, true) <= at) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

const DIRECT = 12;

/**
 * @param map of the inode: 12 blocks, and one each of single, double and triple indirection
 * @param at block of the file
 */
export async function mappedRun(blocks: Blocks, map: Uint8Array, at: number): Promise<Run> {
  const perBlock = blocks.size / 4;
  if (at < DIRECT) return pointedRun(viewOf(map), at, DIRECT);
  let within = at - DIRECT;
  for (let depth = 1; depth <= 3; depth++) {
    const span = perBlock ** depth;
    if (within < span)
      return indirectRun(blocks, viewOf(map).getUint32((DIRECT + depth - 1) * 4, true), depth, within);
    within -= span;
  }
  throw corrupt(`block ${at} of a file is beyond what its map can have`);
}

async function indirectRun(blocks: Blocks, top: number, depth: number, within: number): Promise<Run> {
  const perBlock = blocks.size / 4;
  let pointer = top;
  let span = perBlock ** depth;
  let rest = within;
  for (;;) {
    if (pointer === 0) return { block: undefined, count: span - rest };
    const view = viewOf(await blocks.read(pointer));
    span /= perBlock;
    if (span === 1) return pointedRun(view, rest, perBlock);
    pointer = view.getUint32(Math.floor(rest / span) * 4, true);
    rest %= span;
  }
}

/** As many pointers in a row as lead to blocks in a row, or nowhere. */
function pointedRun(view: DataView, at: number, end: number): Run {
  const block = view.getUint32(at * 4, true);
  let count = 1;
  while (at + count < end && view.getUint32((at + count) * 4, true) === (block === 0 ? 0 : block + count))
    count++;
  return { block: block === 0 ? undefined : block, count };
}
