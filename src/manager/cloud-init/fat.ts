/**
 * A FAT16 volume with a few files in its root folder, as bytes. Microsoft, "FAT: General Overview of On-Disk Format",
 * version 1.03 ("fatgen103"); long names are those of VFAT, section "FAT Long Directory Entries".
 */

/** A file of the volume: a long name, in letters that every system has. */
export type FatFile = { readonly name: string; readonly content: Uint8Array };

const SECTOR = 512;
/** Of one sector each. FAT16 has 4085 to 65524 of them: that number alone tells the type of FAT. */
const CLUSTERS = 8007;
const RESERVED_SECTORS = 1;
const FATS = 2;
const FAT_SECTORS = Math.ceil(((CLUSTERS + 2) * 2) / SECTOR);
const ROOT_ENTRIES = 512;
const ENTRY = 32;
const ROOT_SECTORS = (ROOT_ENTRIES * ENTRY) / SECTOR;
const DATA_START = RESERVED_SECTORS + FATS * FAT_SECTORS + ROOT_SECTORS;
const SECTORS = DATA_START + CLUSTERS;

/** What the files of a volume may have together, in bytes. */
export const FAT_CAPACITY = CLUSTERS * SECTOR;
/** What the volume has, in bytes. */
export const FAT_SIZE = SECTORS * SECTOR;

const MEDIA = 0xf8;
const ATTRIBUTE = { volumeLabel: 0x08, archive: 0x20, longName: 0x0f } as const;
const LAST_LONG_ENTRY = 0x40;
const LONG_ENTRY_UNITS = 13;
/** where an entry of a long name has its units of UTF-16 */
const UNIT_OFFSETS = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const NAME = /^[a-z0-9][a-z0-9-]{0,99}$/;

/**
 * @param label up to 11 capital letters
 * @param serial of the volume, 32 bits
 * @throws RangeError where it does not fit
 */
export function fatVolume(label: string, serial: number, files: readonly FatFile[]): Uint8Array {
  if (!/^[A-Z]{1,11}$/.test(label)) throw new RangeError(`not the label of a volume: ${label}`);
  const volume = Buffer.alloc(FAT_SIZE);
  writeBootSector(volume, label, serial);
  const fat = new Fat();
  const root = new Root(
    volume.subarray((RESERVED_SECTORS + FATS * FAT_SECTORS) * SECTOR, DATA_START * SECTOR),
  );
  root.addLabel(label);
  for (const { name, content } of files) {
    const start = fat.allocate(Math.ceil(content.length / SECTOR));
    if (content.length > 0) volume.set(content, (DATA_START + start - 2) * SECTOR);
    root.addFile(name, start, content.length);
  }
  for (let copy = 0; copy < FATS; copy++)
    volume.set(fat.bytes, (RESERVED_SECTORS + copy * FAT_SECTORS) * SECTOR);
  return volume;
}

function writeBootSector(volume: Buffer, label: string, serial: number): void {
  volume.set([0xeb, 0x3c, 0x90], 0);
  volume.write('MSWIN4.1', 3, 'latin1');
  volume.writeUInt16LE(SECTOR, 11);
  volume.writeUInt8(1, 13);
  volume.writeUInt16LE(RESERVED_SECTORS, 14);
  volume.writeUInt8(FATS, 16);
  volume.writeUInt16LE(ROOT_ENTRIES, 17);
  volume.writeUInt16LE(SECTORS, 19);
  volume.writeUInt8(MEDIA, 21);
  volume.writeUInt16LE(FAT_SECTORS, 22);
  // sectors a track and heads, which nobody asks for any more
  volume.writeUInt16LE(32, 24);
  volume.writeUInt16LE(64, 26);
  volume.writeUInt8(0x80, 36);
  volume.writeUInt8(0x29, 38);
  volume.writeUInt32LE(serial >>> 0, 39);
  volume.write(label.padEnd(11), 43, 'latin1');
  volume.write('FAT16   ', 54, 'latin1');
  volume.writeUInt16LE(0xaa55, 510);
}

/** The file allocation table: files lie in one piece, one after the other. */
class Fat {
  readonly bytes = Buffer.alloc(FAT_SECTORS * SECTOR);
  #next = 2;

  constructor() {
    this.bytes.writeUInt16LE(0xff00 | MEDIA, 0);
    this.bytes.writeUInt16LE(0xffff, 2);
  }

  /** @returns the first cluster; 0 for none, as of an empty file */
  allocate(clusters: number): number {
    if (clusters === 0) return 0;
    const start = this.#next;
    if (start + clusters > CLUSTERS + 2) throw new RangeError('the files are larger than the volume');
    for (let at = 0; at < clusters; at++)
      this.bytes.writeUInt16LE(at === clusters - 1 ? 0xffff : start + at + 1, (start + at) * 2);
    this.#next += clusters;
    return start;
  }
}

/** The root folder. */
class Root {
  readonly #bytes: Buffer;
  #entries = 0;
  readonly #names = new Set<string>();

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  addLabel(label: string): void {
    const entry = this.#entry();
    entry.write(label.padEnd(11), 0, 'latin1');
    entry.writeUInt8(ATTRIBUTE.volumeLabel, 11);
    entry.writeUInt16LE(DATE, 24);
  }

  addFile(name: string, cluster: number, size: number): void {
    if (!NAME.test(name) || this.#names.has(name)) throw new RangeError(`not the name of a file: ${name}`);
    this.#names.add(name);
    const short = `FILE~${this.#names.size}`.padEnd(11);
    this.#addLongName(name, short);
    const entry = this.#entry();
    entry.write(short, 0, 'latin1');
    entry.writeUInt8(ATTRIBUTE.archive, 11);
    entry.writeUInt16LE(DATE, 16);
    entry.writeUInt16LE(DATE, 18);
    entry.writeUInt16LE(DATE, 24);
    entry.writeUInt16LE(cluster, 26);
    entry.writeUInt32LE(size, 28);
  }

  /** In pieces, the last one first; what is left of it is a 0 and then ones. */
  #addLongName(name: string, short: string): void {
    const pieces = Math.ceil(name.length / LONG_ENTRY_UNITS);
    for (let piece = pieces; piece >= 1; piece--) {
      const entry = this.#entry();
      entry.writeUInt8(piece | (piece === pieces ? LAST_LONG_ENTRY : 0), 0);
      entry.writeUInt8(ATTRIBUTE.longName, 11);
      entry.writeUInt8(checksumOf(short), 13);
      UNIT_OFFSETS.forEach((offset, at) => {
        const index = (piece - 1) * LONG_ENTRY_UNITS + at;
        const unit = index < name.length ? name.charCodeAt(index) : index === name.length ? 0 : 0xffff;
        entry.writeUInt16LE(unit, offset);
      });
    }
  }

  #entry(): Buffer {
    if (this.#entries === ROOT_ENTRIES) throw new RangeError('too many files for the root folder');
    const start = this.#entries++ * ENTRY;
    return this.#bytes.subarray(start, start + ENTRY);
  }
}

/** 1 January 2000: a time that says nothing, and after which no clock is */
const DATE = ((2000 - 1980) << 9) | (1 << 5) | 1;

/** Of the short name, that its long name has too. */
function checksumOf(short: string): number {
  let sum = 0;
  for (const byte of Buffer.from(short, 'latin1')) sum = (((sum & 1) << 7) + (sum >> 1) + byte) & 0xff;
  return sum;
}
