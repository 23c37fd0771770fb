/** What a volume holds, by the marks that formats leave at fixed places. */
import { isZeros, latin1, viewOf } from './bytes.ts';
import { EXT_MAGIC } from './ext4/superblock.ts';
import { looksLikeFat } from './fat/boot-sector.ts';
import { type ByteReader } from './reader.ts';

export type VolumeKind =
  | { readonly kind: 'ext4' | 'vfat' | 'xfs' }
  /** known, and not read here; `name` as people call it */
  | { readonly kind: 'other'; readonly name: string }
  /** nothing but zeros where formats have their marks */
  | { readonly kind: 'empty' }
  | { readonly kind: 'unknown' };

type Mark = { readonly at: number; readonly bytes: string; readonly name: string };

/** Before file systems: what holds one. */
const OTHERS: readonly Mark[] = [
  { at: 0, bytes: 'LUKS\xba\xbe', name: 'LUKS encryption' },
  ...[0, 512, 1024, 1536].map((at) => ({ at: at + 24, bytes: 'LVM2 001', name: 'LVM' })),
  { at: 3, bytes: '-FVE-FS-', name: 'BitLocker' },
  { at: 4096, bytes: '\xfc\x4e\x2b\xa9', name: 'a Linux software RAID' },
  { at: 0, bytes: '\xfc\x4e\x2b\xa9', name: 'a Linux software RAID' },
  { at: 0x10040, bytes: '_BHRfS_M', name: 'btrfs' },
  { at: 4086, bytes: 'SWAPSPACE2', name: 'swap space' },
  { at: 4086, bytes: 'SWAP-SPACE', name: 'swap space' },
  { at: 3, bytes: 'NTFS    ', name: 'NTFS' },
  { at: 3, bytes: 'EXFAT   ', name: 'exFAT' },
  { at: 0, bytes: 'hsqs', name: 'SquashFS' },
  { at: 1024, bytes: '\xe2\xe1\xf5\xe0', name: 'EROFS' },
  { at: 1024, bytes: '\x10\x20\xf5\xf2', name: 'F2FS' },
  { at: 4120, bytes: '\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81', name: 'bcachefs' },
  { at: 4120, bytes: '\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef', name: 'bcachefs' },
  { at: 32769, bytes: 'CD001', name: 'ISO 9660' },
  { at: 65588, bytes: 'ReIsEr', name: 'ReiserFS' },
  { at: 32768, bytes: 'JFS1', name: 'JFS' },
];

/** All marks are within this. */
const HEAD = 66 * 1024;

/** @throws GuestFsError: EIO */
export async function identify(volume: ByteReader): Promise<VolumeKind> {
  const head = new Uint8Array(HEAD);
  await volume.read(0, head.subarray(0, Math.min(HEAD, volume.size)));
  const has = (at: number, bytes: string): boolean => latin1(head.subarray(at, at + bytes.length)) === bytes;
  if (has(0, 'XFSB')) return { kind: 'xfs' };
  const other = OTHERS.find(({ at, bytes }) => has(at, bytes));
  if (other !== undefined) return { kind: 'other', name: other.name };
  if (viewOf(head).getUint16(1024 + 0x38, true) === EXT_MAGIC) return { kind: 'ext4' };
  if (looksLikeFat(head)) return { kind: 'vfat' };
  return { kind: isZeros(head) ? 'empty' : 'unknown' };
}
