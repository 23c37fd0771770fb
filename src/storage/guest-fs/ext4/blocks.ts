import { isWithin } from '../bytes.ts';
import { corrupt } from '../error.ts';
import type { ByteReader } from '../reader.ts';

/** Where the newer content of a block is: in a block of the journal. */
export type Logged = {
  readonly block: number;
  /** its first four bytes are those that mark blocks of the journal's own, and lie there as zeros */
  readonly isEscaped: boolean;
};

/** @see Logged */
export const JOURNAL_MAGIC = Buffer.from([0xc0, 0x3b, 0x39, 0x98]);

/** Blocks of a file system, where those in the journal take the place of the older ones. */
export class Blocks {
  readonly size: number;
  readonly count: number;
  readonly #volume: ByteReader;
  readonly #newer: ReadonlyMap<number, Logged>;

  constructor(
    volume: ByteReader,
    size: number,
    count: number,
    newer: ReadonlyMap<number, Logged> = new Map(),
  ) {
    this.#volume = volume;
    this.size = size;
    this.count = count;
    this.#newer = newer;
  }

  async read(block: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.size);
    await this.readRange(block, 0, bytes);
    return bytes;
  }

  /** Fills `target` with what is `skip` bytes into a block and in the blocks behind it. */
  async readRange(block: number, skip: number, target: Uint8Array): Promise<void> {
    const first = block + Math.floor(skip / this.size);
    const within = skip % this.size;
    const blocks = Math.ceil((within + target.length) / this.size);
    if (!isWithin(first, blocks, this.count))
      throw corrupt(`${blocks} blocks from ${first} on are not within the ${this.count} of the file system`);
    if (this.#newer.size === 0) return this.#volume.read(first * this.size + within, target);
    for (let i = 0, done = 0; i < blocks;) {
      const start = i === 0 ? within : 0;
      let end = i + 1;
      const logged = this.#newer.get(first + i);
      if (logged === undefined) while (end < blocks && !this.#newer.has(first + end)) end++;
      const part = target.subarray(done, done + (end - i) * this.size - start);
      await this.#volume.read((logged?.block ?? first + i) * this.size + start, part);
      if (logged?.isEscaped === true && start < 4)
        part.set(JOURNAL_MAGIC.subarray(start, start + part.length));
      done += part.length;
      i = end;
    }
  }
}
