/** The superblock of XFS, versions 4 and 5 (XFS Algorithms & Data Structures, "Superblocks"). All of XFS is big-endian. */
import { cText, isWithin, u64be, uuidText, viewOf } from '../bytes.ts';
import { corrupt, unsupported } from '../error.ts';

export const SUPERBLOCK_SIZE = 512;

const INCOMPAT = { fileTypes: 0x1, needsRepair: 0x10 } as const;
/** File types, sparse inodes, UUID of metadata, times after 2038, damage, counters of 64 bits, exchanges, parents */
const READABLE = 0xff;
const FEATURES2_FILE_TYPES = 0x200;

export type XfsSuperblock = {
  readonly version: 4 | 5;
  readonly blockSize: number;
  readonly blockCount: number;
  readonly agBlocks: number;
  readonly agCount: number;
  /** bits of a block's number within its group, and of an inode's within its block */
  readonly agBlockBits: number;
  readonly inodeBits: number;
  readonly inodeSize: number;
  readonly rootInode: number;
  readonly directoryBlockSize: number;
  readonly hasFileTypes: boolean;
  readonly needsRepair: boolean;
  /** 0 where it is on another device */
  readonly logStart: number;
  readonly logBlocks: number;
  readonly uuid: string;
  readonly label: string;
};

/** @param size of the volume in bytes */
export function readXfsSuperblock(bytes: Uint8Array, size: number): XfsSuperblock {
  const view = viewOf(bytes);
  const version = view.getUint16(100) & 0xf;
  if (version !== 4 && version !== 5) throw unsupported(`XFS of version ${version}`);
  const incompat = version === 5 ? view.getUint32(216) : 0;
  const unknown = incompat & ~READABLE;
  if (unknown !== 0) throw unsupported(`XFS with unknown features 0x${(unknown >>> 0).toString(16)}`);
  const blockSize = view.getUint32(4);
  const blockBits = view.getUint8(120);
  const blockCount = u64be(view, 8);
  const agBlocks = view.getUint32(84);
  const agCount = view.getUint32(88);
  const inodeSize = view.getUint16(104);
  const inodeBits = view.getUint8(123);
  const agBlockBits = view.getUint8(124);
  const directoryBits = view.getUint8(192);
  if (blockBits < 9 || blockBits > 16 || blockSize !== 2 ** blockBits)
    throw corrupt(`XFS: blocks of ${blockSize} bytes`);
  if (!isWithin(0, blockCount * blockSize, size))
    throw corrupt(`XFS: ${blockCount} blocks of ${blockSize} bytes, but the volume has ${size} bytes`);
  if (agBlocks === 0 || agBlockBits > 31 || agBlocks > 2 ** agBlockBits || agCount === 0)
    throw corrupt(`XFS: ${agCount} groups of ${agBlocks} blocks`);
  if (inodeSize < 256 || inodeSize > 2048 || inodeBits > 8 || inodeSize * 2 ** inodeBits !== blockSize)
    throw corrupt(`XFS: inodes of ${inodeSize} bytes`);
  if (blockBits + directoryBits > 16) throw corrupt('XFS: directory blocks of over 64 KiB');
  const features2 = view.getUint32(200);
  return {
    version,
    blockSize,
    blockCount,
    agBlocks,
    agCount,
    agBlockBits,
    inodeBits,
    inodeSize,
    rootInode: u64be(view, 56),
    directoryBlockSize: 2 ** (blockBits + directoryBits),
    hasFileTypes:
      version === 5 ? (incompat & INCOMPAT.fileTypes) !== 0 : (features2 & FEATURES2_FILE_TYPES) !== 0,
    needsRepair: (incompat & INCOMPAT.needsRepair) !== 0,
    logStart: u64be(view, 48),
    logBlocks: view.getUint32(96),
    uuid: uuidText(bytes.subarray(32, 48)),
    label: cText(bytes.subarray(108, 120)),
  };
}
