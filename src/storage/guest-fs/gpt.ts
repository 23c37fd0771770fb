/** GUID partition tables (UEFI 2.10, section 5.3). */
import { crc32 } from 'node:zlib';
import { guidText, isZeros, u64le, utf16, viewOf } from './bytes.ts';
import { corrupt } from './error.ts';
import type { Partition, PartitionTable } from './partition.ts';
import { readBytes, type ByteReader } from './reader.ts';

const SIGNATURE = 'EFI PART';
const HEADER_SIZE = 92;
const ENTRY_SIZE = 128;
/** The specification asks for room for 128 entries at least; some have 256. */
const MAX_ENTRIES = 1024;
const MAX_ENTRY_SIZE = 4096;
const SECTOR_SIZES = [512, 4096];

/**
 * The table at the disk's start or else the backup at its end.
 * @returns undefined where there is neither
 */
export async function readGpt(disk: ByteReader): Promise<PartitionTable | undefined> {
  const faults: string[] = [];
  for (const sectorSize of SECTOR_SIZES) {
    const last = Math.floor(disk.size / sectorSize) - 1;
    for (const sector of [1, last]) {
      if (sector < 1 || sector > last) continue;
      const header = await readBytes(disk, sector * sectorSize, sectorSize);
      if (Buffer.from(header.subarray(0, 8)).toString('latin1') !== SIGNATURE) continue;
      const table = await readTable(disk, header, sector, sectorSize);
      if (typeof table === 'string') {
        faults.push(table);
        continue;
      }
      const notes = faults.map((fault) => `the partition table is damaged (${fault}): its backup is used`);
      return { ...table, notes: [...notes, ...table.notes] };
    }
  }
  if (faults.length > 0) throw corrupt(`the partition table is damaged: ${faults.join('; ')}`);
  return undefined;
}

/** What is wrong with a table, or the table. */
async function readTable(
  disk: ByteReader,
  header: Uint8Array,
  sector: number,
  sectorSize: number,
): Promise<PartitionTable | string> {
  const view = viewOf(header);
  const headerSize = view.getUint32(12, true);
  if (headerSize < HEADER_SIZE || headerSize > sectorSize) return `a header of ${headerSize} bytes`;
  const checked = Uint8Array.from(header.subarray(0, headerSize));
  checked.fill(0, 16, 20);
  if (crc32(checked) !== view.getUint32(16, true)) return 'the header has a wrong checksum';
  if (u64le(view, 24) !== sector) return 'the header belongs to another place';
  const entrySize = view.getUint32(84, true);
  const count = view.getUint32(80, true);
  if (entrySize < ENTRY_SIZE || entrySize > MAX_ENTRY_SIZE || entrySize % 8 !== 0 || count > MAX_ENTRIES)
    return `${count} entries of ${entrySize} bytes`;
  const start = u64le(view, 72) * sectorSize;
  if (!(start + count * entrySize <= disk.size)) return 'its entries are not on the disk';
  const entries = await readBytes(disk, start, count * entrySize);
  if (crc32(entries) !== view.getUint32(88, true)) return 'the entries have a wrong checksum';

  const partitions: Partition[] = [];
  const notes: string[] = [];
  for (let i = 0; i < count; i++) {
    const entry = entries.subarray(i * entrySize, i * entrySize + ENTRY_SIZE);
    if (isZeros(entry.subarray(0, 16))) continue;
    const fields = viewOf(entry);
    const first = u64le(fields, 32);
    const last = u64le(fields, 40);
    if (!(first <= last && (last + 1) * sectorSize <= disk.size)) {
      notes.push(`partition ${i + 1} does not lie on the disk`);
      continue;
    }
    partitions.push({
      number: i + 1,
      offset: first * sectorSize,
      size: (last - first + 1) * sectorSize,
      type: guidText(entry.subarray(0, 16)),
      uuid: guidText(entry.subarray(16, 32)),
      name: utf16(entry.subarray(56, 128)).split('\0')[0]!,
    });
  }
  return { kind: 'gpt', sectorSize, partitions, notes };
}
