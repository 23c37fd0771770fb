import { isWithin, viewOf } from '../bytes.ts';
import { corrupt } from '../error.ts';
import type { GuestNode, NodeKind } from '../driver.ts';
import type { Blocks } from './blocks.ts';
import { INCOMPAT, inodeTime, type Superblock } from './superblock.ts';

const FLAGS = { compressed: 0x4, encrypted: 0x800, extents: 0x8_0000, inlineData: 0x1000_0000 } as const;
/** what is in the inode, in the place of the block map */
const MAP_AT = 0x28;
const MAP_SIZE = 60;
const BASIC_SIZE = 128;

export type Inode = GuestNode & {
  readonly number: number;
  /** block map, root of the extents, or the start of an inline file: 60 bytes */
  readonly map: Uint8Array;
  readonly hasExtents: boolean;
  readonly isEncrypted: boolean;
  readonly isCompressed: boolean;
  /** what is in the inode of a file that has no blocks */
  readonly inline: Uint8Array | undefined;
};

const KINDS: Readonly<Record<number, NodeKind>> = { 0x4: 'directory', 0x8: 'file', 0xa: 'symlink' };

export async function readInode(blocks: Blocks, superblock: Superblock, number: number): Promise<Inode> {
  const { inodeCount, inodesPerGroup, inodeSize, groupCount } = superblock;
  if (number < 1 || number > inodeCount) throw corrupt(`there is no inode ${number}`);
  const group = Math.floor((number - 1) / inodesPerGroup);
  if (group >= groupCount) throw corrupt(`there is no inode ${number}`);
  const table = await inodeTable(blocks, superblock, group);
  const bytes = new Uint8Array(inodeSize);
  await blocks.readRange(table, ((number - 1) % inodesPerGroup) * inodeSize, bytes);
  return parseInode(bytes, number);
}

async function inodeTable(blocks: Blocks, superblock: Superblock, group: number): Promise<number> {
  const { descriptorSize, blockSize } = superblock;
  const perBlock = Math.floor(blockSize / descriptorSize);
  const block = descriptorBlock(superblock, Math.floor(group / perBlock), perBlock);
  const descriptor = new Uint8Array(descriptorSize);
  await blocks.readRange(block, (group % perBlock) * descriptorSize, descriptor);
  const view = viewOf(descriptor);
  const high = descriptorSize >= 64 ? view.getUint32(0x28, true) : 0;
  return view.getUint32(0x8, true) + high * 2 ** 32;
}

/** With meta_bg the descriptors are not all at the start, but each block of them is in the first group it is about. */
function descriptorBlock(superblock: Superblock, index: number, perBlock: number): number {
  const { firstDataBlock, incompat, firstMetaBg, blocksPerGroup, hasBackup } = superblock;
  if ((incompat & INCOMPAT.metaBg) === 0 || index < firstMetaBg) return firstDataBlock + 1 + index;
  const group = index * perBlock;
  return firstDataBlock + group * blocksPerGroup + (hasBackup(group) ? 1 : 0);
}

function parseInode(bytes: Uint8Array, number: number): Inode {
  const view = viewOf(bytes);
  const kind = KINDS[view.getUint16(0, true) >> 12] ?? 'other';
  const flags = view.getUint32(0x20, true);
  const extra = bytes.length > BASIC_SIZE ? view.getUint16(0x80, true) : 0;
  const hasField = (end: number): boolean => end <= BASIC_SIZE + extra && end <= bytes.length;
  const mtime = inodeTime(view.getUint32(0x10, true), hasField(0x8c) ? view.getUint32(0x88, true) : 0);
  const ctime = inodeTime(view.getUint32(0xc, true), hasField(0x88) ? view.getUint32(0x84, true) : 0);
  const size = view.getUint32(0x4, true) + view.getUint32(0x6c, true) * 2 ** 32;
  if (!Number.isSafeInteger(size)) throw corrupt(`inode ${number}: a size of ${size}`);
  const map = bytes.slice(MAP_AT, MAP_AT + MAP_SIZE);
  const hasExtents = (flags & FLAGS.extents) !== 0;
  const generation = view.getUint32(0x64, true);
  return {
    number,
    kind,
    size,
    mtime: mtime.seconds,
    stamp: [
      number,
      generation,
      size,
      mtime.seconds,
      mtime.nanoseconds,
      ctime.seconds,
      ctime.nanoseconds,
    ].join(':'),
    map,
    hasExtents,
    isEncrypted: (flags & FLAGS.encrypted) !== 0,
    isCompressed: (flags & FLAGS.compressed) !== 0,
    inline:
      (flags & FLAGS.inlineData) !== 0
        ? inlineData(bytes, extra, map)
        : kind === 'symlink' && !hasExtents && size < MAP_SIZE
          ? map
          : undefined,
  };
}

const XATTR_MAGIC = 0xea02_0000;
const XATTR_HEADER = 16;
const XATTR_INDEX_SYSTEM = 7;

/** The start is in the place of the block map, the rest is the attribute `system.data` behind the inode's fields. */
function inlineData(bytes: Uint8Array, extra: number, map: Uint8Array): Uint8Array {
  const start = BASIC_SIZE + extra;
  const view = viewOf(bytes);
  if (extra === 0 || start + 4 > bytes.length || view.getUint32(start, true) !== XATTR_MAGIC) return map;
  const first = start + 4;
  for (let at = first; at + XATTR_HEADER <= bytes.length && view.getUint32(at, true) !== 0;) {
    const nameLength = bytes[at]!;
    const name = Buffer.from(bytes.subarray(at + XATTR_HEADER, at + XATTR_HEADER + nameLength)).toString(
      'latin1',
    );
    if (bytes[at + 1] === XATTR_INDEX_SYSTEM && name === 'data') {
      const offset = first + view.getUint16(at + 2, true);
      const length = view.getUint32(at + 8, true);
      if (!isWithin(offset, length, bytes.length)) throw corrupt('inline data that is not in its inode');
      return Buffer.concat([map, bytes.subarray(offset, offset + length)]);
    }
    at += (XATTR_HEADER + nameLength + 3) & ~3;
  }
  return map;
}
