/** The superblock of ext2, ext3 and ext4 (Linux, Documentation/filesystems/ext4). */
import { cText, uuidText, viewOf } from '../bytes.ts';
import { corrupt, unsupported } from '../error.ts';

export const SUPERBLOCK_AT = 1024;
export const SUPERBLOCK_SIZE = 1024;
export const EXT_MAGIC = 0xef53;

const COMPAT = { hasJournal: 0x4, sparseSuper2: 0x200 } as const;
export const INCOMPAT = {
  compression: 0x1,
  fileType: 0x2,
  recover: 0x4,
  journalDevice: 0x8,
  metaBg: 0x10,
  extents: 0x40,
  is64bit: 0x80,
  multiMount: 0x100,
  flexBg: 0x200,
  eaInode: 0x400,
  dirData: 0x1000,
  checksumSeed: 0x2000,
  largeDirectories: 0x4000,
  inlineData: 0x8000,
  encryption: 0x1_0000,
  caseFolding: 0x2_0000,
} as const;
const RO_COMPAT_SPARSE_SUPER = 0x1;
/** What only ext4 has, of the features that are looked at here: those before were ext3's. */
const EXT4_ONLY = ~(INCOMPAT.fileType | INCOMPAT.recover | INCOMPAT.journalDevice | INCOMPAT.metaBg);

const READABLE =
  INCOMPAT.fileType |
  INCOMPAT.recover |
  INCOMPAT.metaBg |
  INCOMPAT.extents |
  INCOMPAT.is64bit |
  INCOMPAT.multiMount |
  INCOMPAT.flexBg |
  INCOMPAT.eaInode |
  INCOMPAT.checksumSeed |
  INCOMPAT.largeDirectories |
  INCOMPAT.inlineData |
  INCOMPAT.encryption |
  INCOMPAT.caseFolding;

export type Superblock = {
  readonly type: 'ext2' | 'ext3' | 'ext4';
  readonly blockSize: number;
  readonly blockCount: number;
  readonly firstDataBlock: number;
  readonly inodeCount: number;
  readonly inodeSize: number;
  readonly inodesPerGroup: number;
  readonly blocksPerGroup: number;
  readonly groupCount: number;
  readonly descriptorSize: number;
  /** feature bits */
  readonly incompat: number;
  readonly firstMetaBg: number;
  /** whether a group begins with a copy of this */
  readonly hasBackup: (group: number) => boolean;
  /** inode of the journal, 0 where there is none in here */
  readonly journalInode: number;
  readonly needsRecovery: boolean;
  readonly uuid: string;
  readonly label: string;
};

/**
 * @param bytes 1024 of them
 * @param size of the volume in bytes
 */
export function readSuperblock(bytes: Uint8Array, size: number): Superblock {
  const view = viewOf(bytes);
  if (view.getUint16(0x38, true) !== EXT_MAGIC)
    throw corrupt('the superblock of ext4 has a wrong magic number');
  const incompat = view.getUint32(0x60, true);
  checkFeatures(incompat);
  const compat = view.getUint32(0x5c, true);
  const roCompat = view.getUint32(0x64, true);
  const revision = view.getUint32(0x4c, true);
  const is64bit = (incompat & INCOMPAT.is64bit) !== 0;

  const logBlockSize = view.getUint32(0x18, true);
  if (logBlockSize > 6) throw corrupt(`ext4: blocks of 2^${logBlockSize + 10} bytes`);
  const blockSize = 1024 << logBlockSize;
  const blockCount = view.getUint32(0x04, true) + (is64bit ? view.getUint32(0x150, true) * 2 ** 32 : 0);
  const inodeSize = revision === 0 ? 128 : view.getUint16(0x58, true);
  const inodesPerGroup = view.getUint32(0x28, true);
  const blocksPerGroup = view.getUint32(0x20, true);
  const firstDataBlock = view.getUint32(0x14, true);
  const descriptorSize = is64bit ? view.getUint16(0xfe, true) : 32;

  if (blockCount * blockSize > size)
    throw corrupt(`ext4: ${blockCount} blocks of ${blockSize} bytes, but the volume has ${size} bytes`);
  if (inodeSize < 128 || inodeSize > blockSize || (inodeSize & (inodeSize - 1)) !== 0)
    throw corrupt(`ext4: inodes of ${inodeSize} bytes`);
  if (inodesPerGroup === 0 || inodesPerGroup > blockSize * 8 || blocksPerGroup === 0)
    throw corrupt(`ext4: ${blocksPerGroup} blocks and ${inodesPerGroup} inodes in a group`);
  if (firstDataBlock >= blockCount)
    throw corrupt(`ext4: the first of ${blockCount} blocks is ${firstDataBlock}`);
  if (descriptorSize < (is64bit ? 64 : 32) || descriptorSize > blockSize || descriptorSize % 8 !== 0)
    throw corrupt(`ext4: group descriptors of ${descriptorSize} bytes`);

  const backups = [view.getUint32(0x24c, true), view.getUint32(0x250, true)];
  const isSparse = (roCompat & RO_COMPAT_SPARSE_SUPER) !== 0;
  const hasJournal = (compat & COMPAT.hasJournal) !== 0;
  return {
    type: (incompat & EXT4_ONLY) !== 0 || (roCompat & ~0x7) !== 0 ? 'ext4' : hasJournal ? 'ext3' : 'ext2',
    blockSize,
    blockCount,
    firstDataBlock,
    inodeCount: view.getUint32(0, true),
    inodeSize,
    inodesPerGroup,
    blocksPerGroup,
    groupCount: Math.ceil((blockCount - firstDataBlock) / blocksPerGroup),
    descriptorSize,
    incompat,
    firstMetaBg: view.getUint32(0x104, true),
    hasBackup: (group) => {
      if (group === 0) return true;
      if ((compat & COMPAT.sparseSuper2) !== 0) return backups.includes(group);
      return !isSparse || [3, 5, 7].some((base) => isPower(group, base));
    },
    journalInode: hasJournal ? view.getUint32(0xe0, true) : 0,
    needsRecovery: (incompat & INCOMPAT.recover) !== 0 && hasJournal,
    uuid: uuidText(bytes.subarray(0x68, 0x78)),
    label: cText(bytes.subarray(0x78, 0x88)),
  };
}

function checkFeatures(incompat: number): void {
  if ((incompat & INCOMPAT.journalDevice) !== 0)
    throw unsupported('an external journal of ext4, no file system');
  if ((incompat & INCOMPAT.compression) !== 0) throw unsupported('ext4 with compression');
  if ((incompat & INCOMPAT.dirData) !== 0) throw unsupported('ext4 with data in directories (dirdata)');
  const unknown = incompat & ~READABLE;
  if (unknown !== 0) throw unsupported(`ext4 with unknown features 0x${(unknown >>> 0).toString(16)}`);
}

function isPower(value: number, base: number): boolean {
  let power = 1;
  while (power < value) power *= base;
  return power === value;
}

/** Modification time in seconds: the fields of ext4 have two bits more of seconds, and nanoseconds. */
export function inodeTime(seconds: number, extra: number): { seconds: number; nanoseconds: number } {
  return { seconds: seconds + (extra & 3) * 2 ** 32, nanoseconds: extra >>> 2 };
}
