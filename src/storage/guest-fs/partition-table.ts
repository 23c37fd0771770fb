import { looksLikeFat } from './fat/boot-sector.ts';
import { readGpt } from './gpt.ts';
import { isProtective, readMbr } from './mbr.ts';
import type { PartitionTable } from './partition.ts';
import { readBytes, type ByteReader } from './reader.ts';

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
