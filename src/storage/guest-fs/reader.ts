/** Reads from disks of guests, and from parts of them. */
import { StorageError, type Disk } from '../disk.ts';
import { PromisedDisk, type BufferRegistry, type DiskBuffer } from '../promised-disk.ts';
import { isWithin } from './bytes.ts';
import { corrupt, GuestFsError } from './error.ts';

export type ByteReader = {
  /** in bytes */
  readonly size: number;
  /**
   * Fills `target` with what is at `offset`.
   * @throws GuestFsError: ECORRUPT where some of it lies beyond the end, EIO
   */
  read(offset: number, target: Uint8Array): Promise<void>;
};

export async function readBytes(reader: ByteReader, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await reader.read(offset, bytes);
  return bytes;
}

/** A part of a disk. @throws GuestFsError where it is not within it */
export function slice(reader: ByteReader, offset: number, size: number): ByteReader {
  if (!isWithin(offset, size, reader.size)) throw outside(offset, size, reader.size);
  return {
    size,
    read: async (at, target) => {
      if (!isWithin(at, target.length, size)) throw outside(at, target.length, size);
      await reader.read(offset + at, target);
    },
  };
}

/** One read, in units of {@link limitedReader}, by what it costs. */
const UNIT = 4096;

/**
 * Ends with an error what a disk that somebody made for it would have read without end.
 * @param limit for all reads: each counts as one, and one more for every 4 KiB
 */
export function limitedReader(reader: ByteReader, limit: number): ByteReader {
  let left = limit;
  return {
    size: reader.size,
    read: async (offset, target) => {
      left -= 1 + Math.floor(target.length / UNIT);
      if (left < 0) throw new GuestFsError('ETOOBIG', 'it takes too many reads to find what is looked for');
      await reader.read(offset, target);
    },
  };
}

/** Bytes in memory. */
export function memoryReader(bytes: Uint8Array): ByteReader {
  return {
    size: bytes.length,
    read: (offset, target) => {
      if (!isWithin(offset, target.length, bytes.length))
        return Promise.reject(outside(offset, target.length, bytes.length));
      target.set(bytes.subarray(offset, offset + target.length));
      return Promise.resolve();
    },
  };
}

function outside(offset: number, length: number, size: number): GuestFsError {
  return corrupt(`${length} bytes at ${offset} are not within ${size} bytes`);
}

/** What is read and kept at a time. */
const CHUNK = 64 * 1024;
const CHUNKS = 64;
/** What is longer than this does not go through the cache. */
const SHORT = 4 * CHUNK;
const LONG_PIECE = 2 ** 20;

/** A disk with a cache of 4 MiB. Reads are done one after the other. */
export class DiskReader implements ByteReader {
  readonly size: number;
  readonly #disk: PromisedDisk;
  readonly #cache: DiskBuffer;
  /** where the chunks are in the cache, the one not used for longest first */
  readonly #places = new Map<number, number>();
  #long: DiskBuffer | undefined;
  #last: Promise<void> = Promise.resolve();

  /** @param disk which nobody else uses meanwhile; closed by {@link close} */
  constructor(disk: Disk, registry: BufferRegistry) {
    this.size = disk.size;
    this.#disk = new PromisedDisk(disk, registry);
    this.#cache = this.#disk.buffer(CHUNK * CHUNKS);
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    if (!isWithin(offset, target.length, this.size))
      return Promise.reject(outside(offset, target.length, this.size));
    const turn = this.#last.then(() =>
      target.length > SHORT ? this.#readLong(offset, target) : this.#readShort(offset, target),
    );
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async close(): Promise<void> {
    await this.#last;
    await this.#disk.close();
  }

  async #readShort(offset: number, target: Uint8Array): Promise<void> {
    for (let done = 0; done < target.length;) {
      const chunk = Math.floor((offset + done) / CHUNK);
      const place = await this.#placeOf(chunk);
      const within = offset + done - chunk * CHUNK;
      const length = Math.min(target.length - done, CHUNK - within);
      target.set(this.#cache.bytes.subarray(place + within, place + within + length), done);
      done += length;
    }
  }

  async #placeOf(chunk: number): Promise<number> {
    let place = this.#places.get(chunk);
    if (place !== undefined) this.#places.delete(chunk);
    else {
      place = this.#freePlace();
      const start = chunk * CHUNK;
      await this.#fetch(start, this.#cache, Math.min(CHUNK, this.size - start), place);
    }
    this.#places.set(chunk, place);
    return place;
  }

  #freePlace(): number {
    if (this.#places.size < CHUNKS) {
      const used = new Set(this.#places.values());
      for (let place = 0; place < CHUNKS * CHUNK; place += CHUNK) if (!used.has(place)) return place;
    }
    const [[oldest, place] = [0, 0]] = this.#places;
    this.#places.delete(oldest);
    return place;
  }

  async #readLong(offset: number, target: Uint8Array): Promise<void> {
    this.#long ??= this.#disk.buffer(LONG_PIECE);
    for (let done = 0; done < target.length;) {
      const length = Math.min(LONG_PIECE, target.length - done);
      await this.#fetch(offset + done, this.#long, length, 0);
      target.set(this.#long.bytes.subarray(0, length), done);
      done += length;
    }
  }

  async #fetch(offset: number, buffer: DiskBuffer, length: number, at: number): Promise<void> {
    try {
      await this.#disk.read(offset, buffer, length, at);
    } catch (error) {
      if (error instanceof StorageError) throw new GuestFsError('EIO', error.message, { cause: error });
      throw error;
    }
  }
}
