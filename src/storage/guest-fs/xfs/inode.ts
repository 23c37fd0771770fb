import { u64be, viewOf } from '../bytes.ts';
import type { GuestNode, NodeKind } from '../driver.ts';
import { corrupt } from '../error.ts';
import type { XfsBlocks } from './blocks.ts';

const MAGIC = 0x494e;
const CORE_V2 = 100;
const CORE_V3 = 176;
const FLAG_REALTIME = 0x1;
const FLAG2 = { bigTime: 0x8, manyExtents: 0x10 } as const;
/** What the counter of large times begins at, in seconds */
const BIG_TIME_START = -(2 ** 31);

export const FORMAT = { local: 1, extents: 2, tree: 3 } as const;

export type XfsInode = GuestNode & {
  readonly number: number;
  readonly format: number;
  /** what the inode has of the file's content or of where it is */
  readonly fork: Uint8Array;
  readonly extentCount: number;
  readonly isRealtime: boolean;
};

const KINDS: Readonly<Record<number, NodeKind>> = { 0x4: 'directory', 0x8: 'file', 0xa: 'symlink' };

export async function readXfsInode(blocks: XfsBlocks, number: number): Promise<XfsInode> {
  const { inodeBits, inodeSize } = blocks.superblock;
  if (!Number.isSafeInteger(number) || number <= 0) throw corrupt(`XFS has no inode ${number}`);
  const place = blocks.placeOf(Math.floor(number / 2 ** inodeBits));
  const bytes = await blocks.readAt(place + (number % 2 ** inodeBits) * inodeSize, inodeSize);
  const view = viewOf(bytes);
  const version = view.getUint8(4);
  if (view.getUint16(0) !== MAGIC || version < 1 || version > 3)
    throw corrupt(`inode ${number} of XFS is none`);
  const core = version === 3 ? CORE_V3 : CORE_V2;
  const flags2 = version === 3 ? view.getUint32(124) : 0;
  const forkSize = view.getUint8(82) * 8 || inodeSize - core;
  if (core + forkSize > inodeSize) throw corrupt(`inode ${number} of XFS has a fork of ${forkSize} bytes`);
  const size = u64be(view, 56);
  if (!Number.isSafeInteger(size)) throw corrupt(`inode ${number} of XFS has a size of ${size}`);
  const timeAt = (at: number): string => `${view.getUint32(at)}.${view.getUint32(at + 4)}`;
  const isBigTime = (flags2 & FLAG2.bigTime) !== 0;
  return {
    number,
    kind: KINDS[view.getUint16(2) >> 12] ?? 'other',
    size,
    mtime: isBigTime ? Math.floor(u64be(view, 40) / 1e9) + BIG_TIME_START : view.getInt32(40),
    stamp: [number, view.getUint32(92), size, timeAt(40), timeAt(48)].join(':'),
    format: view.getUint8(5),
    fork: bytes.slice(core, core + forkSize),
    extentCount: (flags2 & FLAG2.manyExtents) !== 0 ? u64be(view, 24) : view.getUint32(76),
    isRealtime: (view.getUint16(90) & FLAG_REALTIME) !== 0,
  };
}
