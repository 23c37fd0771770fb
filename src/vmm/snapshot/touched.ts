/**
 * What a restored guest touches first: `touched` beside the memory of a snapshot, the same file for all that go on from
 * it. The first of them fills it; later ones have that in memory of their own before they run. It is a hint: what
 * cannot be read is as if it were not there.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import type { GuestRam } from '../../kvm/memory.ts';
import { PageMap } from '../../kvm/memory-image.ts';

export const TOUCHED_FILE = 'touched';
/** A huge page: smaller pieces would not be one, and it is a huge page that saves faults. */
const BLOCK = 2 ** 21;
/**
 * So many pages of a block are more than one touch: the kernel maps up to 16 pages of a file around one that is touched.
 */
const LEAST_PAGES = 17;
/**
 * A guest has by then done what it was about to, in milliseconds: one for a single command may be gone soon after the
 * first look, and one on a slow host has done more by the second.
 */
const LOOK_AFTER = [200, 2000] as const;
/** of the file, in bytes */
const LIMIT = 2 ** 20;

/** Whole blocks in order, as pairs of offset and length. */
const schema = v.strictObject({
  ranges: v.array(
    v.strictTuple([
      v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
      v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
    ]),
  ),
});

/** Makes the file for a new snapshot. */
export function createTouched(folder: string): void {
  try {
    closeSync(openSync(join(folder, TOUCHED_FILE), 'wx', 0o600));
  } catch {
    // The guest takes longer then.
  }
}

/** The file of a snapshot that a guest goes on from. */
export class Touched {
  /** pairs of offset and length; undefined where nobody knows yet */
  readonly ranges: Float64Array | undefined;
  #fd: number | undefined;
  #timers: readonly NodeJS.Timeout[] = [];

  /** @param size of RAM, in bytes */
  constructor(folder: string, size: number) {
    try {
      this.#fd = openSync(join(folder, TOUCHED_FILE), 'r+');
      this.ranges = read(this.#fd, size);
    } catch {
      this.close();
    }
  }

  /** The guest has begun to run. */
  watch(ram: GuestRam): void {
    if (this.#fd === undefined || this.ranges !== undefined) this.close();
    else this.#timers = LOOK_AFTER.map((after) => setTimeout(() => this.#write(ram), after).unref());
  }

  #write(ram: GuestRam): void {
    try {
      using pageMap = new PageMap();
      const ranges = ram.native.touched(pageMap.fd, BLOCK, LEAST_PAGES);
      const pairs = Array.from({ length: ranges.length / 2 }, (_, i) => [ranges[2 * i], ranges[2 * i + 1]]);
      const text = JSON.stringify({ ranges: pairs });
      if (text.length > LIMIT) return;
      // Others may write at this moment, too: of what they leave mixed nothing is read.
      writeSync(this.#fd!, text, 0);
      ftruncateSync(this.#fd!, text.length);
    } catch {
      // Nobody knows then.
    }
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function read(fd: number, size: number): Float64Array | undefined {
  const { size: written } = fstatSync(fd);
  if (written === 0) return undefined;
  const bytes = Buffer.alloc(Math.min(written, LIMIT + 1));
  const text = bytes.toString('latin1', 0, readSync(fd, bytes, 0, bytes.length, 0));
  const result = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), text);
  let end = 0;
  for (const [offset, count] of result.success ? result.output.ranges : []) {
    const isWhole = offset % BLOCK === 0 && (count % BLOCK === 0 || offset + count === size);
    if (!isWhole || offset < end || offset + count > size) {
      end = Infinity;
      break;
    }
    end = offset + count;
  }
  if (result.success && end <= size) return Float64Array.from(result.output.ranges.flat());
  // Somebody else writes it anew.
  ftruncateSync(fd, 0);
  return undefined;
}
