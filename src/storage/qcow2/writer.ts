import { IO } from '../../kvm/io-ring.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import { ERRNO, errnoOf, type HostError, type IoBuffer } from './file-io.ts';
import { alignDown, alignUp, toHex } from './format.ts';
import type { Image } from './image.ts';
import { Extent, findExtent, KIND, L2Entry, readEntry, subclusterMask, writeEntry } from './l2-entry.ts';
import type { Mapping } from './mapping.ts';
import type { MetadataMap } from './metadata-map.ts';
import type { Operation, OperationHandler } from './operation.ts';
import type { Reader } from './reader.ts';
import type { NewClusters, Refcounts } from './refcounts.ts';
import type { Page } from './table-cache.ts';
import type { RangeLocks, Task } from './task.ts';

/** Where the bytes of a write come from: a part of a vector. */
type Source = { readonly vector: IoVector; readonly start: number };

/** Which host bytes a write into new or preallocated clusters goes to. Places on the disk, in bytes. */
type Plan = {
  /** what the guest writes */
  readonly from: number;
  readonly to: number;
  /** with what is copied around it, to whole (sub)clusters */
  readonly coveredFrom: number;
  readonly coveredTo: number;
  /** in the image, of `coveredFrom` */
  readonly host: number;
  /** of the first cluster */
  readonly hostCluster: number;
  readonly fresh: boolean;
};

export class Writer implements OperationHandler {
  readonly #image: Image;
  readonly #map: MetadataMap;
  readonly #mapping: Mapping;
  readonly #refcounts: Refcounts;
  readonly #reader: Reader;
  /** of guest clusters whose mapping is being changed */
  readonly locks: RangeLocks;
  readonly #extent = new Extent();
  readonly #entry = new L2Entry();
  readonly #slice = new IoVector();
  readonly #slotLength: number[] = [];

  constructor(
    image: Image,
    map: MetadataMap,
    mapping: Mapping,
    refcounts: Refcounts,
    reader: Reader,
    locks: RangeLocks,
  ) {
    this.#image = image;
    this.#map = map;
    this.#mapping = mapping;
    this.#refcounts = refcounts;
    this.#reader = reader;
    this.locks = locks;
  }

  /**
   * Writes to allocated clusters go to the host at once; all others become tasks. No order is kept between the parts:
   * requests that overlap have none either.
   */
  advance(operation: Operation): void {
    const { geometry } = this.#image;
    const { cache } = this.#mapping;
    const extent = this.#extent;
    while (operation.at < operation.end) {
      if (this.#image.readOnly) {
        operation.partDone(ERRNO.EIO);
        return;
      }
      const { at, end } = operation;
      const table = this.#mapping.tableOf(at);
      if (table <= 0) {
        // The task finds out what is wrong where this is negative.
        operation.at = Math.min(end, at - (at % geometry.l2Coverage) + geometry.l2Coverage);
        this.#spawn(operation, at, operation.at - at);
        continue;
      }
      const pageOffset = this.#mapping.pageOffset(table, at);
      const page = cache.find(pageOffset);
      if (page === undefined) {
        cache.request(pageOffset, operation);
        return;
      }
      findExtent(geometry, page.view, at, end - at, extent);
      if (extent.kind === KIND.data && extent.copied) {
        operation.at = at + extent.length;
        this.#writeInPlace(operation, at, extent.length, extent.host);
        continue;
      }
      operation.at = this.#endOfOthers(page, at, end);
      this.#spawn(operation, at, operation.at - at);
    }
    operation.partDone(0);
  }

  ioDone(operation: Operation, slot: number, result: number): void {
    if (result < 0) operation.partDone(-result);
    else operation.partDone(result < this.#slotLength[slot]! ? ERRNO.EIO : 0);
  }

  /** The end of what cannot be written in place, within the page. */
  #endOfOthers(page: Page, from: number, end: number): number {
    const { geometry } = this.#image;
    const { pageCoverage } = geometry;
    const stop = Math.min(end, from - (from % pageCoverage) + pageCoverage);
    const extent = this.#extent;
    let at = from + extent.length;
    while (at < stop) {
      findExtent(geometry, page.view, at, stop - at, extent);
      if (extent.kind === KIND.data && extent.copied) break;
      at += extent.length;
    }
    return at;
  }

  #writeInPlace(operation: Operation, at: number, length: number, host: number): void {
    const error = this.#refusal(host, length);
    if (error !== undefined) {
      operation.errno ||= error.errno;
      return;
    }
    const { vector, offset } = operation;
    let source = vector;
    if (length < operation.end - offset) {
      source = this.#slice;
      source.clear();
      source.addSlice(vector, at - offset, length);
    }
    operation.partBegun();
    const slot = this.#image.io.queue(IO.write, host, length, source, operation);
    this.#slotLength[slot] = length;
  }

  /** Why data must not go there, whatever the tables say. */
  #refusal(host: number, length: number): HostError | undefined {
    if (host + length > this.#image.end)
      return this.#image.corrupt(`data at ${toHex(host)} is outside the file`);
    const hit = this.#map.overlap(host, length);
    return hit === undefined ? undefined : this.#image.corrupt(`data at ${toHex(host)} overlaps ${hit}`);
  }

  #spawn(operation: Operation, at: number, length: number): void {
    operation.partBegun();
    this.#image.tasks.spawn(this.#writePart(operation, at, length));
  }

  *#writePart(operation: Operation, at: number, length: number): Task {
    let errno = 0;
    try {
      yield* this.write({ vector: operation.vector, start: at - operation.offset }, at, length);
    } catch (error) {
      errno = errnoOf(error);
    }
    operation.partDone(errno);
  }

  /** Writes wherever it is to go, and allocates what it takes. @throws HostError */
  *write(source: Source, offset: number, length: number): Task {
    const { clusterSize } = this.#image.geometry;
    const end = offset + length;
    const first = Math.floor(offset / clusterSize);
    const lock = yield* this.locks.acquire(first, Math.floor((end - 1) / clusterSize));
    try {
      yield* this.writeLocked(source, offset, length);
    } finally {
      this.locks.release(lock);
    }
  }

  /** As {@link write}, for who holds the lock of these clusters. */
  *writeLocked(source: Source, offset: number, length: number): Task {
    const { geometry } = this.#image;
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const here: Source = { vector: source.vector, start: source.start + at - offset };
      const page = yield* this.#mapping.pageForWrite(at);
      const extent = this.#extent;
      findExtent(geometry, page.view, at, end - at, extent);
      if (extent.kind === KIND.invalid)
        throw this.#image.corrupt(`the L2 entry for ${toHex(at)} makes no sense`);
      if (extent.kind === KIND.data && extent.copied) {
        const { host, length: size } = extent;
        const error = this.#refusal(host, size);
        if (error !== undefined) throw error;
        yield* this.#image.io.writeVector(host, this.#sliceOf(here, size));
        at += size;
      } else at = yield* this.#writeNew(here, page, at, end);
    }
  }

  /** Writes into clusters that are not in use yet, up to `end` or less. @returns how far it came */
  *#writeNew(source: Source, page: Page, from: number, end: number): Task<number> {
    const { entry, length } = this.#extent;
    const { clusterSize, subclusterSize } = this.#image.geometry;
    const clusterStart = alignDown(from, clusterSize);
    if (entry.host !== 0 && entry.copied && !entry.compressed) {
      // There is a host cluster, for this alone: preallocated, or with other subclusters in use.
      const to = Math.min(end, from + length, clusterStart + clusterSize);
      const coveredFrom = alignDown(from, subclusterSize);
      const error = this.#refusal(entry.host, clusterSize);
      if (error !== undefined) throw error;
      const plan: Plan = {
        from,
        to,
        coveredFrom,
        coveredTo: alignUp(to, subclusterSize),
        host: entry.host + coveredFrom - clusterStart,
        hostCluster: entry.host,
        fresh: false,
      };
      yield* this.#copyAndLink(source, plan);
      return to;
    }
    const run = yield* this.#refcounts.allocate(this.#countNew(page, from, end));
    try {
      const plan = yield* this.#planNew(run, from, end);
      yield* this.#copyAndLink(source, plan);
      return plan.to;
    } catch (error) {
      yield* this.#refcounts.release(run);
      throw error;
    }
  }

  /** Clusters from `from` on that need a new host cluster, one after the other. */
  #countNew(page: Page, from: number, end: number): number {
    const { geometry } = this.#image;
    const { clusterSize, pageEntries } = geometry;
    const first = Math.floor(from / clusterSize);
    let count = 1;
    for (
      let cluster = first + 1;
      cluster * clusterSize < end && cluster % pageEntries !== 0;
      cluster++, count++
    ) {
      readEntry(geometry, page.view, cluster % pageEntries, this.#entry);
      const { invalid, host, copied, compressed } = this.#entry;
      if (invalid || (host !== 0 && copied && !compressed)) break;
    }
    return count;
  }

  *#planNew(run: NewClusters, from: number, end: number): Task<Plan> {
    const { clusterSize, subclusterSize } = this.#image.geometry;
    const clusterStart = alignDown(from, clusterSize);
    const to = Math.min(end, clusterStart + run.clusters * clusterSize);
    const page = yield* this.#mapping.pageForWrite(from);
    // What another host cluster has of the first and last cluster must all come along.
    const headUnit = this.#hasData(page, from) ? clusterSize : subclusterSize;
    const tailUnit = this.#hasData(page, to - 1) ? clusterSize : subclusterSize;
    const coveredFrom = alignDown(from, headUnit);
    return {
      from,
      to,
      coveredFrom,
      coveredTo: alignUp(to, tailUnit),
      host: run.offset + coveredFrom - clusterStart,
      hostCluster: run.offset,
      fresh: run.fresh,
    };
  }

  #hasData(page: Page, at: number): boolean {
    const { geometry } = this.#image;
    readEntry(geometry, page.view, Math.floor(at / geometry.clusterSize) % geometry.pageEntries, this.#entry);
    return this.#entry.host !== 0;
  }

  *#copyAndLink(source: Source, plan: Plan): Task {
    const { pool, io } = this.#image;
    const { from, to, coveredFrom, coveredTo } = plan;
    const head = from - coveredFrom;
    const tail = coveredTo - to;
    if (head + tail === 0) yield* io.writeVector(plan.host, this.#sliceOf(source, to - from));
    else {
      const memory = yield* pool.acquire(head + tail);
      try {
        const hasHead = yield* this.#fetch(coveredFrom, head, memory, 0, plan.fresh);
        const hasTail = yield* this.#fetch(to, tail, memory, head, plan.fresh);
        const vector = this.#slice;
        vector.clear();
        if (hasHead) vector.add(memory.buffer, memory.offset, head);
        vector.addSlice(source.vector, source.start, to - from);
        if (hasTail) vector.add(memory.buffer, memory.offset + head, tail);
        yield* io.writeVector(plan.host + (hasHead ? 0 : head), vector);
      } finally {
        pool.release(memory);
      }
    }
    this.#link(yield* this.#mapping.pageForWrite(from), plan);
  }

  /** Good until anything else is queued: the ring has its own copy then. */
  #sliceOf({ vector, start }: Source, length: number): IoVector {
    this.#slice.clear();
    this.#slice.addSlice(vector, start, length);
    return this.#slice;
  }

  /**
   * Gets what is to be copied around a write.
   * @returns false where nothing needs to be written: zeros, in a cluster that has zeros already
   */
  *#fetch(offset: number, length: number, memory: IoBuffer, at: number, fresh: boolean): Task<boolean> {
    if (length === 0) return false;
    // The last cluster may go beyond the end of the disk.
    const inDisk = Math.max(0, Math.min(length, this.#image.header.size - offset));
    const isZero = inDisk === 0 || (yield* this.readsAsZeros(offset, inDisk));
    if (isZero && fresh) return false;
    if (isZero) memory.bytes.fill(0, at, at + length);
    else {
      yield* this.#reader.read(offset, inDisk, memory, at);
      memory.bytes.fill(0, at + inDisk, at + length);
    }
    return true;
  }

  /** Whether the tables of this image alone say so; within one L2 page. @throws HostError */
  *readsAsZeros(offset: number, length: number): Task<boolean> {
    const page = yield* this.#mapping.pageForRead(offset);
    if (page === undefined) return !this.#reader.hasBacking(offset);
    for (let at = offset; at < offset + length; at += this.#extent.length) {
      findExtent(this.#image.geometry, page.view, at, offset + length - at, this.#extent);
      const { kind } = this.#extent;
      if (kind !== KIND.zero && (kind !== KIND.unallocated || this.#reader.hasBacking(at))) return false;
    }
    return true;
  }

  /** Lets the L2 entries refer to what has been written. Nothing waits in here. */
  #link(page: Page, plan: Plan): void {
    const { geometry } = this.#image;
    const { clusterSize, subclusterSize, subclusters, pageEntries, entrySize } = geometry;
    const entry = this.#entry;
    const first = Math.floor(plan.from / clusterSize);
    const last = Math.floor((plan.to - 1) / clusterSize);
    for (let cluster = first; cluster <= last; cluster++) {
      const index = cluster % pageEntries;
      readEntry(geometry, page.view, index, entry);
      const host = plan.hostCluster + (cluster - first) * clusterSize;
      if (entry.compressed) this.#mapping.unreferenceCompressed(entry.host, entry.compressedSize, false);
      else if (entry.host !== 0 && entry.host !== host) this.#mapping.unreference(entry.host, 1, false);
      if (subclusters === 1) writeEntry(geometry, page.view, index, host, false);
      else {
        const start = cluster * clusterSize;
        const from = Math.max(0, (plan.coveredFrom - start) / subclusterSize);
        const to = Math.min(subclusters, (plan.coveredTo - start) / subclusterSize);
        const mask = subclusterMask(from, to);
        const zeros = entry.compressed ? 0 : entry.zeros & ~mask;
        const allocated = (entry.compressed ? 0 : entry.allocated) | mask;
        writeEntry(geometry, page.view, index, host, false, zeros >>> 0, allocated >>> 0);
      }
    }
    const from = first % pageEntries;
    this.#mapping.cache.changed(page, from * entrySize, (last - first + 1) * entrySize);
    this.#mapping.refersToNew = true;
  }
}
