/** Copies between disks: what is zero is left out, and several pieces are under way at a time. */
import type { PromisedDisk, DiskBuffer } from './promised-disk.ts';
import { extentAt } from './qcow2/map.ts';

/** What is moved at a time, and how many of these. */
export const PIECE = 2 ** 20;
const DEPTH = 4;
/** Zeros shorter than this are written as data. */
const GRAIN = 4096;

/** Takes what was read; `isZero` where all of it is known to be zeros, and nothing was read. */
export type PieceSink = (
  offset: number,
  buffer: DiskBuffer,
  length: number,
  isZero: boolean,
) => Promise<void>;

export type CopyOptions = {
  /** up to here; default all of it */
  readonly end?: number;
  readonly progress?: (share: number) => void;
  /** Pieces in their order, each when the one before it is done. Default false */
  readonly ordered?: boolean;
};

/**
 * Reads a disk piece by piece.
 * @param skip whether this extent of the source may be left out
 */
export async function readPieces(
  source: PromisedDisk,
  sink: PieceSink,
  options: CopyOptions = {},
  skip: (start: number, length: number) => Promise<boolean> = async () => Promise.resolve(false),
): Promise<void> {
  const end = options.end ?? source.disk.size;
  const depth = options.ordered === true ? 1 : DEPTH;
  let next = 0;
  const worker = async (): Promise<void> => {
    const buffer = source.buffer(PIECE);
    while (next < end) {
      const offset = next;
      const length = Math.min(PIECE, end - offset);
      next += length;
      if (!(await skip(offset, length))) {
        const isZero = await readsAsZeros(source, offset, length);
        if (!isZero) await source.read(offset, buffer, length);
        await sink(offset, buffer, length, isZero);
      }
      options.progress?.(offset / end);
    }
  };
  const results = await Promise.allSettled(Array.from({ length: depth }, worker));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  options.progress?.(1);
}

/** Whether the tables of all layers say so. */
async function readsAsZeros(source: PromisedDisk, offset: number, length: number): Promise<boolean> {
  for (let at = offset; at < offset + length;) {
    const { kind, length: here } = await extentAt(source.disk, at, offset + length);
    if (kind === 'data' || kind === 'compressed') return false;
    at += here;
  }
  return true;
}

export function isZero(bytes: Uint8Array): boolean {
  const words = new Float64Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 8));
  // -0 and NaN are other bits than 0, and compare as such where it matters: -0 is found by its sign.
  for (const word of words) if (word !== 0 || Object.is(word, -0)) return false;
  return bytes.subarray(words.length * 8).every((byte) => byte === 0);
}

/** Writes what is not zero; the target is new and reads as zeros. */
export async function writeSparsely(
  target: PromisedDisk,
  offset: number,
  buffer: DiskBuffer,
  length: number,
): Promise<void> {
  const writes: Promise<void>[] = [];
  for (let at = 0; at < length;) {
    let end = at;
    while (end < length && !isZero(buffer.bytes.subarray(end, Math.min(length, end + GRAIN)))) end += GRAIN;
    end = Math.min(end, length);
    if (end > at) writes.push(target.write(offset + at, buffer, end - at, at));
    at = end + GRAIN;
  }
  await Promise.all(writes);
}
