import { looksLikeFat } from './fat/boot-sector.ts';
import { readGpt } from './gpt.ts';
import { isProtective, readMbr } from './mbr.ts';
import { readBytes, type ByteReader } from './reader.ts';

export type Partition = {
  /** from 1 on, as Linux numbers it: N of /dev/vdaN. 0 is the whole disk */
  readonly number: number;
  /** in bytes, like `size`; within the disk, but partitions may overlap */
  readonly offset: number;
  readonly size: number;
  /** GPT: a GUID in small letters; MBR: a number like 0x83; '' for the whole disk */
  readonly type: string;
  /** what Linux calls PARTUUID; '' for the whole disk */
  readonly uuid: string;
  /** what Linux calls PARTLABEL; only GPTs have names */
  readonly name: string;
};

export type PartitionTable = {
  /** `none`: the disk is one file system */
  readonly kind: 'gpt' | 'mbr' | 'none';
  readonly sectorSize: number;
  readonly partitions: readonly Partition[];
  /** what is wrong and could be done without, each one line */
  readonly notes: readonly string[];
};

/** @throws GuestFsError: ECORRUPT where there is a table that cannot be used, EIO */
export async function readPartitions(disk: ByteReader): Promise<PartitionTable> {
  const whole = { number: 0, offset: 0, size: disk.size, type: '', uuid: '', name: '' };
  const none: PartitionTable = { kind: 'none', sectorSize: 512, partitions: [whole], notes: [] };
  if (disk.size < 1024) return none;
  const first = await readBytes(disk, 0, 512);
  // As Linux does: a GPT that the first sector does not tell of is the rest of an older use of the disk.
  const gpt = isProtective(first) ? await readGpt(disk) : undefined;
  if (gpt !== undefined) return gpt;
  // The boot sector of a FAT ends with the same two bytes as a partition table.
  if (looksLikeFat(first)) return none;
  return (await readMbr(disk, first)) ?? none;
}
