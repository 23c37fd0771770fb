import { latin1, viewOf, utf16 } from '../bytes.ts';

export type FatEntry = {
  readonly name: string;
  /** the name of eight and three characters, which means the file too */
  readonly shortName: string;
  readonly isDirectory: boolean;
  readonly cluster: number;
  readonly size: number;
  /** as they lie there: time in the low half, date in the high one */
  readonly modified: number;
};

const ENTRY = 32;
const ATTRIBUTE = { volume: 0x08, directory: 0x10, long: 0x0f } as const;
const DELETED = 0xe5;
/** stands for a first byte that is 0xe5 itself */
const KANJI = 0x05;
const LAST_LONG = 0x40;
/** Windows NT notes here that all letters of a part are small. */
const SMALL_BASE = 0x08;
const SMALL_EXTENSION = 0x10;
/** A long name has 255 characters at most, 13 in an entry. */
const MAX_LONG = 20;

/** Collects the entries of a directory; a long name may lie in one block and its file's entry in the next one. */
export class FatDirectory {
  readonly #is32bit: boolean;
  #long: { readonly checksum: number; next: number; text: string } | undefined;
  /** whether there was the entry behind which there are no others */
  ended = false;

  constructor(is32bit: boolean) {
    this.#is32bit = is32bit;
  }

  add(bytes: Uint8Array): FatEntry[] {
    const entries: FatEntry[] = [];
    for (let at = 0; at + ENTRY <= bytes.length && !this.ended; at += ENTRY) {
      const raw = bytes.subarray(at, at + ENTRY);
      if (raw[0] === 0) this.ended = true;
      else if (raw[0] === DELETED) this.#long = undefined;
      else if ((raw[11]! & 0x3f) === ATTRIBUTE.long) this.#addLong(raw);
      else {
        const entry = this.#entryOf(raw);
        this.#long = undefined;
        if (entry !== undefined) entries.push(entry);
      }
    }
    return entries;
  }

  /** Pieces of a long name lie before the entry, the last one first. */
  #addLong(raw: Uint8Array): void {
    const order = raw[0]! & ~LAST_LONG;
    const checksum = raw[13]!;
    const piece = utf16(Buffer.concat([raw.subarray(1, 11), raw.subarray(14, 26), raw.subarray(28, 32)]));
    const text = piece.split('\0')[0]!;
    const long = this.#long;
    if ((raw[0]! & LAST_LONG) !== 0 && order >= 1 && order <= MAX_LONG)
      this.#long = { checksum, next: order - 1, text };
    else if (long?.checksum === checksum && long.next === order && order >= 1) {
      long.next--;
      long.text = text + long.text;
    } else this.#long = undefined;
  }

  #entryOf(raw: Uint8Array): FatEntry | undefined {
    const attributes = raw[11]!;
    if ((attributes & ATTRIBUTE.volume) !== 0) return undefined;
    const view = viewOf(raw);
    const shortName = shortNameOf(raw);
    if (shortName === '.' || shortName === '..') return undefined;
    const long = this.#long;
    const isLong = long?.next === 0 && long.checksum === checksumOf(raw.subarray(0, 11));
    const isDirectory = (attributes & ATTRIBUTE.directory) !== 0;
    return {
      name: isLong ? long.text : shortName,
      shortName,
      isDirectory,
      cluster: view.getUint16(26, true) + (this.#is32bit ? view.getUint16(20, true) * 65536 : 0),
      size: isDirectory ? 0 : view.getUint32(28, true),
      modified: view.getUint32(22, true),
    };
  }
}

function shortNameOf(raw: Uint8Array): string {
  const bytes = Uint8Array.from(raw.subarray(0, 11));
  if (bytes[0] === KANJI) bytes[0] = DELETED;
  const flags = raw[12]!;
  const part = (from: number, to: number, isSmall: boolean): string => {
    const name = latin1(bytes.subarray(from, to)).trimEnd();
    return isSmall ? name.toLowerCase() : name;
  };
  const base = part(0, 8, (flags & SMALL_BASE) !== 0);
  const extension = part(8, 11, (flags & SMALL_EXTENSION) !== 0);
  return extension === '' ? base : `${base}.${extension}`;
}

function checksumOf(name: Uint8Array): number {
  let sum = 0;
  for (const byte of name) sum = (((sum & 1) << 7) + (sum >> 1) + byte) & 0xff;
  return sum;
}
