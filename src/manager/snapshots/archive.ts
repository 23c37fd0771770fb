/**
 * The form of an exported snapshot: a gzipped tar archive of one level.
 *
 *     manifest.json   what it is, and how large what follows is
 *     vm.ini          the settings as they were
 *     kernel, initrd  where the VM has such files
 *     disk.N          all that the guest sees on disk N: no image format, and nothing below it
 *     state.json, memory, memory.N   as they are in the snapshot's folder
 *     SHA256SUMS      of the content of each entry before it, as sha256sum(1) writes it
 *
 * Disks and memory are sparse entries: "Storing Sparse Files" of GNU tar's manual, PAX format 1.0. Their content begins
 * with a map of decimal numbers, one a line: how many extents, then offset and length of each; zeros fill it up to a
 * multiple of 512 bytes, and the extents follow. The last one is empty, and begins where the file ends. The checksum is
 * that of map and extents.
 */
import * as v from 'valibot';
import { snapshotSchema } from './record.ts';

export const MANIFEST = 'manifest.json';
export const SUMS = 'SHA256SUMS';
export const KERNEL = 'kernel';
export const INITRD = 'initrd';
export const diskEntry = (disk: number): string => `disk.${disk}`;
/** of manifest, settings and checksums, in bytes */
export const TEXT_LIMIT = 1024 * 1024;

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(2 ** 50));

export const manifestSchema = v.strictObject({
  format: v.literal('tsvm-export'),
  version: v.literal(1),
  /** what the VM was called */
  vm: v.string(),
  snapshot: snapshotSchema,
  /** what each disk has, in bytes */
  disks: v.pipe(v.array(v.pipe(size, v.multipleOf(512))), v.maxLength(26)),
  /** names and sizes of the files of its memory, in bytes */
  memory: v.pipe(
    v.array(v.strictObject({ name: v.pipe(v.string(), v.regex(/^memory(\.\d{1,3})?$/)), size })),
    v.maxLength(1001),
  ),
});
export type Manifest = v.InferOutput<typeof manifestSchema>;

/** A part of a file that is no hole, in bytes. */
export type Extent = { readonly offset: number; readonly length: number };

/** Extents are at most so many: holes that are small against what is between them are stored as zeros before that. */
export const EXTENT_LIMIT = 2 ** 20;
/** of a line of a map: what a number below 2^50 needs */
const LINE_LIMIT = 17;
const BLOCK = 512;

/** The map that a sparse entry begins with. */
export function encodeMap(extents: readonly Extent[], fileSize: number): Buffer {
  const all = [...extents, { offset: fileSize, length: 0 }];
  const numbers = [all.length, ...all.flatMap(({ offset, length }) => [offset, length])];
  const text = Buffer.from(`${numbers.join('\n')}\n`);
  return Buffer.concat([text, Buffer.alloc((BLOCK - (text.length % BLOCK)) % BLOCK)]);
}

/** Reads a map out of the beginning of an entry's content. */
export class MapReader {
  #numbers: number[] = [];
  #line = '';
  #read = 0;
  readonly #size: number;
  readonly #unit: number;

  /** @param fileSize what the file has to have, in bytes @param unit what extents are multiples of, in bytes */
  constructor(fileSize: number, unit: number) {
    this.#size = fileSize;
    this.#unit = unit;
  }

  /**
   * @returns what is left of `bytes` behind the map, or undefined where more of it is to come
   * @throws RangeError where it makes no sense
   */
  take(bytes: Buffer): Buffer | undefined {
    for (let i = 0; i < bytes.length; i++) {
      if (this.#isComplete) {
        // What fills the block up.
        const padding = (BLOCK - (this.#read % BLOCK)) % BLOCK;
        if (padding === 0) return bytes.subarray(i);
        const skipped = Math.min(padding, bytes.length - i);
        this.#read += skipped;
        i += skipped - 1;
        continue;
      }
      this.#read++;
      const char = String.fromCharCode(bytes[i]!);
      if (char === '\n') this.#endLine();
      else {
        this.#line += char;
        if (this.#line.length > LINE_LIMIT || !/\d/.test(char)) throw new RangeError('its map is none');
      }
    }
    return this.#isComplete && this.#read % BLOCK === 0 ? Buffer.alloc(0) : undefined;
  }

  /** Without the empty one at the end. @throws RangeError where they overlap, or are not within the file */
  extents(): Extent[] {
    const extents: Extent[] = [];
    let end = 0;
    for (let i = 1; i < this.#numbers.length; i += 2) {
      const [offset, length] = [this.#numbers[i]!, this.#numbers[i + 1]!];
      if (offset < end || offset + length > this.#size) throw new RangeError('its map leads out of it');
      if (offset % this.#unit !== 0 || length % this.#unit !== 0)
        throw new RangeError(`its map is not in units of ${this.#unit} bytes`);
      end = offset + length;
      if (length > 0) extents.push({ offset, length });
    }
    if (end !== this.#size) throw new RangeError('its map has another size');
    return extents;
  }

  get #isComplete(): boolean {
    const [count] = this.#numbers;
    return count !== undefined && this.#numbers.length === 1 + 2 * count;
  }

  #endLine(): void {
    if (this.#line === '') throw new RangeError('its map is none');
    this.#numbers.push(Number(this.#line));
    this.#line = '';
    const [count = 0] = this.#numbers;
    if (count < 1 || count > EXTENT_LIMIT + 1) throw new RangeError(`its map has ${count} extents`);
  }
}

/** Joins extents until there are few enough of them, those with the smallest holes between them first. */
export function joinExtents(extents: readonly Extent[], limit = EXTENT_LIMIT): Extent[] {
  let joined: readonly Extent[] = extents;
  for (let gap = BLOCK * 8; ; gap *= 2) {
    const next: { offset: number; length: number }[] = [];
    for (const { offset, length } of joined) {
      const last = next.at(-1);
      if (last !== undefined && offset - (last.offset + last.length) < gap)
        last.length = offset + length - last.offset;
      else next.push({ offset, length });
    }
    joined = next;
    if (next.length <= limit) return next;
  }
}
