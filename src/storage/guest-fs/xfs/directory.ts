import { text, u64be, viewOf } from '../bytes.ts';
import { corrupt } from '../error.ts';

export type XfsEntry = { readonly name: string; readonly inode: number };

/** Directories within their inodes. */
export function shortEntries(fork: Uint8Array, hasTypes: boolean): XfsEntry[] {
  const view = viewOf(fork);
  if (fork.length < 6) throw corrupt('a directory in an inode of XFS is too short');
  const isWide = fork[1]! > 0;
  const numberSize = isWide ? 8 : 4;
  const entries: XfsEntry[] = [];
  let at = 2 + numberSize;
  for (let i = 0; i < fork[0]!; i++) {
    const nameAt = at + 3;
    const numberAt = nameAt + (fork[at] ?? 0) + (hasTypes ? 1 : 0);
    if (at >= fork.length || numberAt + numberSize > fork.length)
      throw corrupt('a directory in an inode of XFS goes on behind its end');
    const inode = isWide ? u64be(view, numberAt) : view.getUint32(numberAt);
    entries.push({ name: text(fork.subarray(nameAt, nameAt + fork[at]!)), inode });
    at = numberAt + numberSize;
  }
  return entries;
}

const MAGIC = {
  blockV4: 0x5844_3242,
  dataV4: 0x5844_3244,
  blockV5: 0x5844_4233,
  dataV5: 0x5844_4433,
} as const;
const HEADER_V4 = 16;
const HEADER_V5 = 64;
const UNUSED = 0xffff;
const TAIL = 8;
const LEAF_ENTRY = 8;

/** A block of a directory that has names; it may be the only one, and have an index at its end then. */
export function blockEntries(bytes: Uint8Array, hasTypes: boolean): XfsEntry[] {
  const view = viewOf(bytes);
  const magic = view.getUint32(0);
  const isSingle = magic === MAGIC.blockV4 || magic === MAGIC.blockV5;
  if (!isSingle && magic !== MAGIC.dataV4 && magic !== MAGIC.dataV5)
    throw corrupt('a directory block of XFS is none');
  const indexSize = isSingle ? TAIL + view.getUint32(bytes.length - TAIL) * LEAF_ENTRY : 0;
  const end = bytes.length - indexSize;
  const entries: XfsEntry[] = [];
  for (let at = magic === MAGIC.blockV5 || magic === MAGIC.dataV5 ? HEADER_V5 : HEADER_V4; at + 12 <= end;) {
    if (view.getUint16(at) === UNUSED) {
      const length = view.getUint16(at + 2);
      if (length < 8 || length % 8 !== 0) throw corrupt(`a directory of XFS has a gap of ${length} bytes`);
      at += length;
      continue;
    }
    const nameLength = bytes[at + 8]!;
    const used = 8 + 1 + nameLength + (hasTypes ? 1 : 0) + 2;
    if (nameLength === 0 || at + used > end)
      throw corrupt('a directory entry of XFS goes on behind its block');
    const name = text(bytes.subarray(at + 9, at + 9 + nameLength));
    if (name !== '.' && name !== '..') entries.push({ name, inode: u64be(view, at) });
    at += Math.ceil(used / 8) * 8;
  }
  return entries;
}
