/** Partition tables of PCs, with logical partitions in extended ones. */
import { viewOf } from './bytes.ts';
import type { Partition, PartitionTable } from './partition.ts';
import { readBytes, type ByteReader } from './reader.ts';

const SECTOR = 512;
const ENTRIES_AT = 446;
const ENTRY_SIZE = 16;
const GPT_PROTECTIVE = 0xee;
const EXTENDED = [0x05, 0x0f, 0x85];
/** Linux stops at 256 partitions of one disk. */
const MAX_LOGICAL = 250;

type Entry = { readonly type: number; readonly start: number; readonly sectors: number };

/** Whether the disk has a GPT, by what its first sector says to those who do not know of GPTs. */
export function isProtective(sector: Uint8Array): boolean {
  return hasSignature(sector) && entriesOf(sector).some(({ type }) => type === GPT_PROTECTIVE);
}

/**
 * @param sector the first one of the disk
 * @returns undefined where it is no table
 */
export async function readMbr(disk: ByteReader, sector: Uint8Array): Promise<PartitionTable | undefined> {
  if (!hasSignature(sector)) return undefined;
  // Code of a boot sector lies in a table's place where there is none: its marks for "active" are none then.
  for (let i = 0; i < 4; i++) if ((sector[ENTRIES_AT + i * ENTRY_SIZE]! & 0x7f) !== 0) return undefined;
  const entries = entriesOf(sector);
  if (entries.every(({ type, sectors }) => type === 0 || sectors === 0)) return undefined;

  const id = viewOf(sector).getUint32(440, true).toString(16).padStart(8, '0');
  const partitions: Partition[] = [];
  const notes: string[] = [];
  const add = (number: number, { type, start, sectors }: Entry): void => {
    const offset = start * SECTOR;
    const size = sectors * SECTOR;
    if (start === 0 || offset + size > disk.size) notes.push(`partition ${number} does not lie on the disk`);
    else {
      const uuid = `${id}-${number.toString(16).padStart(2, '0')}`;
      partitions.push({ number, offset, size, type: hexByte(type), uuid, name: '' });
    }
  };
  let logical = 5;
  for (const [i, entry] of entries.entries()) {
    if (entry.type === 0 || entry.sectors === 0) continue;
    if (!EXTENDED.includes(entry.type)) add(i + 1, entry);
    else for (const inner of await readLogical(disk, entry.start, notes)) add(logical++, inner);
  }
  return { kind: 'mbr', sectorSize: SECTOR, partitions, notes };
}

/** Each logical partition has a table of its own before it, with the place of the next table. */
async function readLogical(disk: ByteReader, extended: number, notes: string[]): Promise<Entry[]> {
  const found: Entry[] = [];
  const seen = new Set<number>();
  for (let at = extended; ;) {
    if (seen.has(at) || found.length >= MAX_LOGICAL || (at + 1) * SECTOR > disk.size) {
      notes.push('the logical partitions have no end');
      return found;
    }
    seen.add(at);
    const sector = await readBytes(disk, at * SECTOR, SECTOR);
    if (!hasSignature(sector)) return found;
    let next: number | undefined;
    for (const { type, start, sectors } of entriesOf(sector).slice(0, 2)) {
      if (type === 0 || sectors === 0) continue;
      if (EXTENDED.includes(type)) next = extended + start;
      else found.push({ type, start: at + start, sectors });
    }
    if (next === undefined) return found;
    at = next;
  }
}

const hasSignature = (sector: Uint8Array): boolean => sector[510] === 0x55 && sector[511] === 0xaa;

const hexByte = (value: number): string => `0x${value.toString(16).padStart(2, '0')}`;

function entriesOf(sector: Uint8Array): Entry[] {
  const view = viewOf(sector);
  return [0, 1, 2, 3].map((i) => {
    const at = ENTRIES_AT + i * ENTRY_SIZE;
    return {
      type: view.getUint8(at + 4),
      start: view.getUint32(at + 8, true),
      sectors: view.getUint32(at + 12, true),
    };
  });
}
