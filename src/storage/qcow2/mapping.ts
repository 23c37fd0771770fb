/** From places on the disk to places in the image: the L1 table in memory, L2 tables in a cache ("Cluster mapping"). */
import { IO } from '../../kvm/io-ring.ts';
import { ERRNO, HostError } from './file-io.ts';
import { alignUp, HIGH_COPIED, HIGH_OFFSET, LOW_OFFSET, SECTOR, toHex } from './format.ts';
import { viewOf } from './header.ts';
import type { Image } from './image.ts';
import type { MetadataMap } from './metadata-map.ts';
import type { ClusterRun, Refcounts } from './refcounts.ts';
import { TableCache, type Page } from './table-cache.ts';
import { RangeLocks, type Task } from './task.ts';

/** References that the tables in memory gave up; the counts follow when those in the file have too. */
export type Unreferenced = ClusterRun & {
  /** the guest has no use for it: space goes back to the host where this was the last reference */
  readonly discarded: boolean;
};

export class Mapping {
  readonly #image: Image;
  readonly #map: MetadataMap;
  readonly #refcounts: Refcounts;
  readonly cache: TableCache;
  /** as in the file: big-endian entries */
  #l1: DataView;
  /** L1 entries whose table may be written to, having been looked at */
  #trusted: Uint8Array;
  readonly #allocating: RangeLocks;
  /** sectors of the L1 table that were changed */
  readonly #dirtyL1 = new Set<number>();
  /** Whether a table in memory refers to something new that may not be on stable storage yet. */
  refersToNew = false;
  unreferenced: Unreferenced[] = [];

  constructor(image: Image, map: MetadataMap, refcounts: Refcounts, l1: Uint8Array, clean: () => Task) {
    this.#image = image;
    this.#map = map;
    this.#refcounts = refcounts;
    this.#l1 = viewOf(l1);
    this.#trusted = new Uint8Array(l1.length / 8);
    this.#allocating = new RangeLocks(image.tasks);
    const { pageSize } = image.geometry;
    this.cache = new TableCache(image.io, image.tasks, image.pool, pageSize, image.options.cacheSize, clean);
  }

  get isDirty(): boolean {
    return this.#dirtyL1.size > 0 || this.cache.dirty.size > 0;
  }

  /** Offset of the L2 table that maps this place on the disk; 0 where there is none, -1 where it makes no sense. */
  tableOf(offset: number): number {
    return this.#tableAt(Math.floor(offset / this.#image.geometry.l2Coverage));
  }

  #tableAt(index: number): number {
    const high = this.#l1.getUint32(8 * index) & HIGH_OFFSET;
    const table = high * 2 ** 32 + ((this.#l1.getUint32(8 * index + 4) & LOW_OFFSET) >>> 0);
    return table % this.#image.geometry.clusterSize === 0 && table <= Number.MAX_SAFE_INTEGER / 2
      ? table
      : -1;
  }

  #isCopied(index: number): boolean {
    return this.#l1.getUint32(8 * index) >>> 31 === 1;
  }

  /** Where the page of the L2 table at `table` is that maps this place on the disk. */
  pageOffset(table: number, offset: number): number {
    const { l2Coverage, pageCoverage, pageSize } = this.#image.geometry;
    return table + Math.floor((offset % l2Coverage) / pageCoverage) * pageSize;
  }

  /**
   * The page of the L2 table that maps this place, to be changed: makes the table where there is none, and copies it
   * where a snapshot has it too. The page stays until the task waits again. @throws HostError
   */
  *pageForWrite(offset: number): Task<Page> {
    const index = Math.floor(offset / this.#image.geometry.l2Coverage);
    for (;;) {
      this.#image.checkWritable();
      if (this.#trusted[index] === 1) {
        const table = this.#tableAt(index);
        const page = yield* this.cache.load(this.pageOffset(table, offset));
        // It may have been copied away meanwhile, by a resize.
        if (this.#tableAt(index) === table) return page;
        continue;
      }
      const lock = yield* this.#allocating.acquire(index, index);
      try {
        yield* this.#makeWritable(index);
      } finally {
        this.#allocating.release(lock);
      }
    }
  }

  /** The page that maps this place, or undefined where there is no table. @throws HostError */
  *pageForRead(offset: number): Task<Page | undefined> {
    const table = this.tableOf(offset);
    if (table === 0) return undefined;
    if (table < 0) throw this.#image.corrupt(`L1 entry for ${toHex(offset)} is not aligned`);
    return yield* this.cache.load(this.pageOffset(table, offset));
  }

  *#makeWritable(index: number): Task {
    if (this.#trusted[index] === 1) return;
    const { clusterSize } = this.#image.geometry;
    const table = this.#tableAt(index);
    if (table < 0) throw this.#image.corrupt(`L1 entry ${index} is not aligned`);
    if (table > 0 && this.#isCopied(index)) {
      const hit =
        table + clusterSize > this.#image.end
          ? 'outside the file'
          : this.#map.overlap(table, clusterSize, 'L2');
      if (hit !== undefined) throw this.#image.corrupt(`the L2 table at ${toHex(table)}: ${hit}`);
      this.#trusted[index] = 1;
      return;
    }
    yield* this.#newTable(index, table);
  }

  /**
   * The new table is written as what it replaces before anything refers to it. So an L1 entry that reaches the file
   * ahead of the table's later entries shows the state before them.
   */
  *#newTable(index: number, old: number): Task {
    const { geometry, pool, io } = this.#image;
    const { clusterSize, pageSize } = geometry;
    const run = yield* this.#refcounts.allocate(1);
    const memory = yield* pool.acquire(clusterSize);
    try {
      if (old === 0) memory.bytes.fill(0, 0, clusterSize);
      else yield* io.read(old, memory, clusterSize);
      for (let at = 0; at < clusterSize; at += pageSize) {
        if (old === 0) this.cache.insertZeros(run.offset + at);
        else this.cache.drop(run.offset + at);
      }
      yield* io.write(run.offset, memory, clusterSize);
    } catch (error) {
      yield* this.#refcounts.release(run);
      throw error;
    } finally {
      pool.release(memory);
    }
    this.setTable(index, run.offset);
    this.refersToNew = true;
    if (old > 0) {
      for (let at = 0; at < clusterSize; at += pageSize) this.cache.drop(old + at);
      this.unreference(old, 1, false);
    }
  }

  /** Whether the L2 table of this L1 entry may be given up: it is there, and not shared after a write. */
  *isOwnTable(index: number): Task<boolean> {
    yield* this.pageForWrite(index * this.#image.geometry.l2Coverage);
    return this.#tableAt(index) > 0;
  }

  /** Lets an L1 entry refer to a table of its own, or to none (0). */
  setTable(index: number, table: number): void {
    const old = this.#tableAt(index);
    if (old > 0) this.#map.l2Tables.delete(old);
    if (table > 0) this.#map.l2Tables.add(table);
    this.#l1.setUint32(8 * index, table === 0 ? 0 : (Math.floor(table / 2 ** 32) | HIGH_COPIED) >>> 0);
    this.#l1.setUint32(8 * index + 4, table % 2 ** 32);
    this.#trusted[index] = table === 0 ? 0 : 1;
    this.#dirtyL1.add(Math.floor((8 * index) / SECTOR));
  }

  unreference(offset: number, clusters: number, discarded: boolean): void {
    const { clusterSize } = this.#image.geometry;
    const last = this.unreferenced.at(-1);
    if (last?.discarded === discarded && last.offset + last.clusters * clusterSize === offset) {
      this.unreferenced[this.unreferenced.length - 1] = {
        offset: last.offset,
        clusters: last.clusters + clusters,
        discarded,
      };
    } else this.unreferenced.push({ offset, clusters, discarded });
  }

  /** The host clusters that compressed data lies in, one reference each. */
  unreferenceCompressed(host: number, size: number, discarded: boolean): void {
    const { clusterSize } = this.#image.geometry;
    const first = Math.floor(host / clusterSize);
    const last = Math.floor((host + size - 1) / clusterSize);
    this.unreference(first * clusterSize, last - first + 1, discarded);
  }

  /** A copy of the changed sectors of the L1 table, taken for written. */
  stageL1(): { readonly at: number; readonly bytes: Uint8Array }[] {
    const bytes = new Uint8Array(this.#l1.buffer, this.#l1.byteOffset, this.#l1.byteLength);
    const staged = [...this.#dirtyL1].map((sector) => {
      const at = sector * SECTOR;
      return { at, bytes: bytes.slice(at, at + SECTOR) };
    });
    this.#dirtyL1.clear();
    return staged;
  }

  unstageL1(staged: readonly { readonly at: number }[]): void {
    for (const { at } of staged) this.#dirtyL1.add(at / SECTOR);
  }

  /** @throws HostError; the sectors count as changed again then */
  *writeL1(staged: readonly { readonly at: number; readonly bytes: Uint8Array }[]): Task {
    if (staged.length === 0) return;
    const { io, pool, header } = this.#image;
    const join = io.join();
    const memory = staged.map(({ at, bytes }) => {
      const buffer = pool.take(SECTOR);
      buffer.bytes.set(bytes);
      io.queueBytes(IO.write, header.l1Offset + at, buffer, bytes.length, join);
      return buffer;
    });
    try {
      yield* join.wait();
    } catch (error) {
      this.unstageL1(staged);
      throw error;
    } finally {
      for (const buffer of memory) pool.give(buffer);
    }
  }

  /**
   * Makes room for a larger disk in the L1 table; a new table is in use when this ends. Everything else must be
   * written back and nothing in flight. @throws HostError
   */
  *growL1(entries: number): Task {
    const { header, geometry, pool, io } = this.#image;
    const { clusterSize } = geometry;
    if (entries <= header.l1Entries) return;
    const clusters = Math.ceil((entries * 8) / clusterSize);
    const old = {
      offset: header.l1Offset,
      clusters: Math.ceil((header.l1Entries * 8) / clusterSize),
    };
    const bytes = new Uint8Array(clusters * clusterSize);
    bytes.set(new Uint8Array(this.#l1.buffer, this.#l1.byteOffset, this.#l1.byteLength));
    const run = yield* this.allocateContiguous(clusters);
    const memory = pool.take(clusterSize);
    try {
      for (let i = 0; i < clusters; i++) {
        memory.bytes.set(bytes.subarray(i * clusterSize, (i + 1) * clusterSize));
        yield* io.write(run.offset + i * clusterSize, memory, clusterSize);
      }
    } finally {
      pool.give(memory);
    }
    yield* this.#refcounts.write();
    yield* this.#image.sync();
    header.l1Offset = run.offset;
    header.l1Entries = entries;
    yield* this.#image.writeHeader();
    this.#l1 = viewOf(bytes.subarray(0, alignUp(entries * 8, 8)));
    const trusted = new Uint8Array(entries);
    trusted.set(this.#trusted);
    this.#trusted = trusted;
    this.#map.l1.offset = run.offset;
    this.#map.l1.length = entries * 8;
    if (old.clusters > 0) yield* this.#refcounts.release(old);
  }

  /** Clusters that follow one another, however many: tries until a run is long enough. @throws HostError */
  *allocateContiguous(clusters: number): Task<ClusterRun> {
    const { clusterSize } = this.#image.geometry;
    const short: ClusterRun[] = [];
    let run = yield* this.#refcounts.allocate(clusters);
    let count = run.clusters;
    let start = run.offset;
    while (count < clusters) {
      run = yield* this.#refcounts.allocate(clusters - count);
      if (run.offset === start + count * clusterSize) count += run.clusters;
      else {
        short.push({ offset: start, clusters: count });
        start = run.offset;
        count = run.clusters;
      }
      if (short.length > 1_000_000) throw new HostError(ERRNO.ENOSPC, 'no contiguous space');
    }
    for (const each of short) yield* this.#refcounts.release(each);
    return { offset: start, clusters };
  }
}
