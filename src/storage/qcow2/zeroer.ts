/** Discards and writes of zeros, as changes of L2 entries wherever the format allows it. */
import { IoVector } from '../../kvm/io-vector.ts';
import { alignDown, alignUp, toHex } from './format.ts';
import type { Image } from './image.ts';
import { L2Entry, readEntry, subclusterMask, writeEntry } from './l2-entry.ts';
import type { Mapping } from './mapping.ts';
import type { Reader } from './reader.ts';
import type { Page } from './table-cache.ts';
import type { Task } from './task.ts';
import type { Writer } from './writer.ts';

export class Zeroer {
  readonly #image: Image;
  readonly #mapping: Mapping;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #entry = new L2Entry();

  constructor(image: Image, mapping: Mapping, reader: Reader, writer: Writer) {
    this.#image = image;
    this.#mapping = mapping;
    this.#reader = reader;
    this.#writer = writer;
  }

  /**
   * Makes the range read as zeros.
   * @param unmap whether clusters may be given up; else allocated ones stay with the image
   * @throws HostError
   */
  *writeZeroes(offset: number, length: number, unmap: boolean): Task {
    const { geometry, header } = this.#image;
    const unit = geometry.subclusterSize;
    const end = offset + length;
    const from = alignUp(offset, unit);
    // The last cluster may go beyond the end of the disk.
    const to = end === header.size ? alignUp(end, unit) : alignDown(end, unit);
    if (from >= to) {
      yield* this.#writeEdge(offset, length);
      return;
    }
    yield* this.#writeEdge(offset, from - offset);
    yield* this.#eachPage(from, to, (start, stop) => this.#zeroPage(start, stop, unmap));
    if (to < end) yield* this.#writeEdge(to, end - to);
  }

  /**
   * Gives up whole clusters of the range; the rest stays as it is.
   * @param mode whether they read as zeros then, or are as if never written: for what is not part of the disk any more
   * @throws HostError
   */
  *discard(offset: number, length: number, mode: 'zero' | 'forget' = 'zero'): Task {
    const { geometry, header } = this.#image;
    const { clusterSize } = geometry;
    const end = offset + length;
    const from = alignUp(offset, clusterSize);
    const to = end === header.size ? alignUp(end, clusterSize) : alignDown(end, clusterSize);
    if (from < to) yield* this.#eachPage(from, to, (start, stop) => this.#discardPage(start, stop, mode));
  }

  *#eachPage(from: number, to: number, each: (start: number, stop: number) => Task): Task {
    const { pageCoverage, clusterSize } = this.#image.geometry;
    for (let start = from; start < to;) {
      const stop = Math.min(to, alignDown(start, pageCoverage) + pageCoverage);
      const lock = yield* this.#writer.locks.acquire(
        Math.floor(start / clusterSize),
        Math.floor((stop - 1) / clusterSize),
      );
      try {
        yield* each(start, stop);
      } finally {
        this.#writer.locks.release(lock);
      }
      start = stop;
    }
  }

  *#discardPage(start: number, stop: number, mode: 'zero' | 'forget'): Task {
    if (this.#mapping.tableOf(start) === 0) return;
    const { geometry } = this.#image;
    const { clusterSize, pageEntries, version } = geometry;
    const page = yield* this.#mapping.pageForWrite(start);
    const entry = this.#entry;
    for (let at = start; at < stop; at += clusterSize) {
      const index = Math.floor(at / clusterSize) % pageEntries;
      readEntry(geometry, page.view, index, entry);
      if (entry.invalid) throw this.#image.corrupt(`the L2 entry for ${toHex(at)} makes no sense`);
      if (mode === 'forget') {
        this.#giveUp(entry);
        writeEntry(geometry, page.view, index, 0, false);
        this.#changed(page, index);
        continue;
      }
      if (entry.host === 0 && !entry.compressed) continue;
      // Version 2 has no entry that hides what the backing file has there.
      if (version === 2 && this.#reader.hasBacking(at)) continue;
      this.#giveUp(entry);
      this.#setZeros(page, index);
    }
  }

  *#zeroPage(start: number, stop: number, unmap: boolean): Task {
    const { geometry } = this.#image;
    const { clusterSize, pageEntries, version } = geometry;
    if (this.#mapping.tableOf(start) === 0 && !this.#reader.hasBacking(start)) return;
    if (version === 2) {
      yield* this.#zeroPageV2(start, stop, unmap);
      return;
    }
    for (let at = start; at < stop;) {
      const page = yield* this.#mapping.pageForWrite(at);
      while (at < stop) {
        const next = Math.min(stop, alignDown(at, clusterSize) + clusterSize);
        const index = Math.floor(at / clusterSize) % pageEntries;
        readEntry(geometry, page.view, index, this.#entry);
        if (this.#entry.invalid) throw this.#image.corrupt(`the L2 entry for ${toHex(at)} makes no sense`);
        const isWhole = at % clusterSize === 0 && next % clusterSize === 0;
        if (!isWhole && this.#entry.compressed) {
          yield* this.#writeZerosLocked(at, next - at);
          at = next;
          break;
        }
        if (isWhole) this.#zeroCluster(page, index, unmap);
        else this.#zeroSubclusters(page, index, at, next);
        at = next;
      }
    }
  }

  #zeroCluster(page: Page, index: number, unmap: boolean): void {
    const { geometry } = this.#image;
    const entry = this.#entry;
    const keep = !unmap && entry.host !== 0 && entry.copied && !entry.compressed;
    if (!keep) {
      if (entry.host === 0 && !entry.compressed && this.#readsAsZeros(entry)) return;
      this.#giveUp(entry);
      this.#setZeros(page, index);
      return;
    }
    if (geometry.subclusters > 1) writeEntry(geometry, page.view, index, entry.host, false, 0xffff_ffff, 0);
    else writeEntry(geometry, page.view, index, entry.host, true);
    this.#changed(page, index);
  }

  #readsAsZeros(entry: L2Entry): boolean {
    return this.#image.geometry.subclusters > 1 ? entry.zeros === 0xffff_ffff : entry.zeroFlag;
  }

  /** Extended entries: some of the subclusters of a cluster that is not compressed. */
  #zeroSubclusters(page: Page, index: number, at: number, next: number): void {
    const { geometry } = this.#image;
    const { clusterSize, subclusterSize } = geometry;
    const entry = this.#entry;
    const first = (at % clusterSize) / subclusterSize;
    const mask = subclusterMask(first, first + (next - at) / subclusterSize);
    const zeros = (entry.zeros | mask) >>> 0;
    const allocated = (entry.allocated & ~mask) >>> 0;
    const { view } = page;
    // The host cluster and its flag stay as they are, also where a snapshot has it too.
    view.setUint32(index * geometry.entrySize + 8, zeros);
    view.setUint32(index * geometry.entrySize + 12, allocated);
    this.#changed(page, index);
  }

  /** Version 2 has no zero flag: entries are cleared where nothing lies below, else zeros are written. */
  *#zeroPageV2(start: number, stop: number, unmap: boolean): Task {
    const { geometry } = this.#image;
    const { clusterSize, pageEntries } = geometry;
    for (let at = start; at < stop; at += clusterSize) {
      const hasBacking = this.#reader.hasBacking(at);
      const page =
        hasBacking && this.#mapping.tableOf(at) === 0 ? undefined : yield* this.#mapping.pageForWrite(at);
      if (page !== undefined) {
        const index = Math.floor(at / clusterSize) % pageEntries;
        readEntry(geometry, page.view, index, this.#entry);
        if (this.#entry.host === 0 && !this.#entry.compressed && !hasBacking) continue;
        if (!hasBacking && unmap) {
          this.#giveUp(this.#entry);
          writeEntry(geometry, page.view, index, 0, false);
          this.#changed(page, index);
          continue;
        }
      }
      yield* this.#writeZerosLocked(at, Math.min(clusterSize, this.#image.header.size - at));
    }
  }

  #giveUp(entry: L2Entry): void {
    if (entry.compressed) this.#mapping.unreferenceCompressed(entry.host, entry.compressedSize, true);
    else if (entry.host !== 0) this.#mapping.unreference(entry.host, 1, true);
  }

  /** The cluster has no host cluster any more and reads as zeros, whatever lies below. */
  #setZeros(page: Page, index: number): void {
    const { geometry } = this.#image;
    if (geometry.subclusters > 1) writeEntry(geometry, page.view, index, 0, false, 0xffff_ffff, 0);
    else writeEntry(geometry, page.view, index, 0, geometry.version === 3);
    this.#changed(page, index);
  }

  #changed(page: Page, index: number): void {
    const { entrySize } = this.#image.geometry;
    this.#mapping.cache.changed(page, index * entrySize, entrySize);
  }

  /** Less than a (sub)cluster: zeros are written, unless they are there. */
  *#writeEdge(offset: number, length: number): Task {
    if (length === 0) return;
    const { clusterSize } = this.#image.geometry;
    for (let at = offset; at < offset + length;) {
      const next = Math.min(offset + length, alignDown(at, clusterSize) + clusterSize);
      const cluster = Math.floor(at / clusterSize);
      const lock = yield* this.#writer.locks.acquire(cluster, cluster);
      try {
        if (!(yield* this.#writer.readsAsZeros(at, next - at))) yield* this.#writeZerosLocked(at, next - at);
      } finally {
        this.#writer.locks.release(lock);
      }
      at = next;
    }
  }

  *#writeZerosLocked(offset: number, length: number): Task {
    const { zeros } = this.#image.pool;
    const vector = new IoVector();
    for (let left = length; left > 0;) {
      const size = Math.min(left, zeros.bytes.length);
      vector.add(zeros.buffer, zeros.offset, size);
      left -= size;
    }
    yield* this.#writer.writeLocked({ vector, start: 0 }, offset, length);
  }
}
