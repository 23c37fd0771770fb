import { deflateCluster } from './compression.ts';
import { L2Entry, readEntry, writeCompressedEntry } from './l2-entry.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import type { ImageParts } from './qcow2-disk.ts';
import { StorageError } from '../disk.ts';
import type { Task } from './task.ts';

/**
 * Writes whole clusters compressed, one behind the other whatever host clusters they come to lie in. For one user at a
 * time, as when an image is made from another.
 */
export class CompressedWriter {
  readonly #parts: ImageParts;
  /** where the next one goes, in the image; nothing is there where it is at the start of a cluster */
  #at = 0;

  /** @throws StorageError where the image is for another compression than what can be written */
  constructor(parts: ImageParts) {
    this.#parts = parts;
    if (parts.image.header.compression !== 'zlib')
      throw new StorageError(
        parts.image.path,
        'ENOTSUP',
        'only zlib can be written, and the image is for zstd',
      );
  }

  /**
   * @param offset on the disk, of a cluster
   * @param bytes a whole cluster
   * @throws HostError
   */
  *write(offset: number, bytes: Uint8Array): Task {
    const { image, writer } = this.#parts;
    const packed = deflateCluster(bytes);
    const memory = image.pool.take(bytes.length);
    try {
      if (packed === undefined) {
        memory.bytes.set(bytes);
        const vector = new IoVector();
        vector.add(memory.buffer, memory.offset, bytes.length);
        const length = Math.min(bytes.length, image.header.size - offset);
        yield* writer.write({ vector, start: 0 }, offset, length);
        return;
      }
      memory.bytes.set(packed);
      const host = yield* this.#place(packed.length);
      yield* image.io.write(host, memory, packed.length);
      yield* this.#link(offset, host, packed.length);
    } finally {
      image.pool.give(memory);
    }
  }

  /** The last data ends within a sector, which readers take whole. */
  finish(): void {
    const { image } = this.#parts;
    if (image.file.size() < image.end) image.file.truncate(image.end);
  }

  /** Room for so many bytes, with a reference for each host cluster that they lie in. */
  *#place(length: number): Task<number> {
    const { image, refcounts } = this.#parts;
    const { clusterSize } = image.geometry;
    const left = this.#at % clusterSize === 0 ? 0 : clusterSize - (this.#at % clusterSize);
    const current = this.#at - (this.#at % clusterSize);
    if (left > 0 && (yield* refcounts.increment(current))) {
      if (length <= left) return this.#take(this.#at, length);
      const next = yield* refcounts.allocate(1);
      if (next.offset === current + clusterSize) return this.#take(this.#at, length);
      // Somewhere else: all of it goes there, and what was left over stays unused.
      yield* refcounts.decrement(current);
      return this.#take(next.offset, length);
    }
    return this.#take((yield* refcounts.allocate(1)).offset, length);
  }

  #take(host: number, length: number): number {
    this.#at = host + length;
    return host;
  }

  *#link(offset: number, host: number, length: number): Task {
    const { image, mapping, writer } = this.#parts;
    const { geometry } = image;
    const cluster = Math.floor(offset / geometry.clusterSize);
    const lock = yield* writer.locks.acquire(cluster, cluster);
    try {
      const page = yield* mapping.pageForWrite(offset);
      const index = cluster % geometry.pageEntries;
      const old = new L2Entry();
      readEntry(geometry, page.view, index, old);
      if (old.compressed) mapping.unreferenceCompressed(old.host, old.compressedSize, false);
      else if (old.host !== 0) mapping.unreference(old.host, 1, false);
      writeCompressedEntry(geometry, page.view, index, host, length);
      mapping.cache.changed(page, index * geometry.entrySize, geometry.entrySize);
      mapping.refersToNew = true;
    } finally {
      writer.locks.release(lock);
    }
  }
}
