import { HostError, ERRNO } from './file-io.ts';
import { MAX_REFCOUNT_TABLE_BYTES, toHex } from './format.ts';
import { viewOf, writeU64 } from './header.ts';
import type { Image } from './image.ts';
import type { MetadataMap } from './metadata-map.ts';
import { getRefcount, setRefcount } from './refcount-width.ts';
import { TableCache } from './table-cache.ts';
import { Mutex, type Task } from './task.ts';

export type ClusterRun = { readonly offset: number; readonly clusters: number };
/** @property fresh what was never written since the file ended before it: it reads as zeros */
export type NewClusters = ClusterRun & { readonly fresh: boolean };

/** Largest host offset that the tables can hold (bits 9 to 55) and that is exact as a number. */
const MAX_OFFSET = Number.MAX_SAFE_INTEGER / 2;
/** Enough to count 128 GiB with clusters of 64 KiB. */
const CACHE_BYTES = 4 * 2 ** 20;

/**
 * Which host clusters are in use and by how many ("Host cluster management"). Counts that are too high do no harm but
 * waste; so increments may reach the file at any time before the reference does, and decrements are applied here
 * only when no reference is left in the file (see write-back.ts). Blocks can therefore be written in any order.
 */
export class Refcounts {
  readonly #image: Image;
  readonly #map: MetadataMap;
  readonly cache: TableCache;
  /** offsets of the blocks; 0 where there is none */
  #table: Float64Array;
  /** pages of blocks that have no free cluster */
  #full: Uint8Array;
  /** first cluster that may be free: all before it are in use */
  #cursor = 0;
  readonly #growing: Mutex;
  readonly #pageEntries: number;

  constructor(image: Image, map: MetadataMap, table: Float64Array) {
    this.#image = image;
    this.#map = map;
    this.#table = table;
    this.#growing = new Mutex(image.tasks);
    const { pageSize, refcountBits, clusterSize } = image.geometry;
    this.#pageEntries = (pageSize * 8) / refcountBits;
    this.#full = new Uint8Array((table.length * clusterSize) / pageSize);
    const limit = Math.min(CACHE_BYTES, image.options.cacheSize);
    this.cache = new TableCache(image.io, image.tasks, image.pool, pageSize, limit, () => this.write());
  }

  /**
   * Takes free clusters that follow one another, with a count of 1 each.
   * @returns at least one, at most `wanted`
   * @throws HostError
   */
  *allocate(wanted: number): Task<NewClusters> {
    const { blockEntries, refcountBits, clusterSize } = this.#image.geometry;
    for (;;) {
      this.#image.checkWritable();
      yield* this.#image.markDirty();
      const block = Math.floor(this.#cursor / blockEntries);
      if (block >= this.#table.length || this.#table[block] === 0) {
        yield* this.#addBlock(block);
        continue;
      }
      if (this.#full[Math.floor(this.#cursor / this.#pageEntries)] === 1) {
        this.#cursor += this.#pageEntries - (this.#cursor % this.#pageEntries);
        continue;
      }
      const start = this.#cursor;
      const page = yield* this.cache.load(this.#pageOffset(start));
      // Nothing waits from here on to the end of the turn, so nobody else takes the same clusters.
      if (start !== this.#cursor) continue;
      const index = start % this.#pageEntries;
      let at = index;
      while (at < this.#pageEntries && getRefcount(page.view, at, refcountBits) !== 0) at++;
      const first = start - index + at;
      this.#cursor = first;
      if (at === this.#pageEntries) {
        // The clusters before the cursor are in use too.
        this.#full[Math.floor(start / this.#pageEntries)] = 1;
        continue;
      }
      const end = Math.min(this.#pageEntries, at + wanted);
      let count = 0;
      for (; at < end && getRefcount(page.view, at, refcountBits) === 0; at++, count++) {
        setRefcount(page.view, at, refcountBits, 1);
      }
      const from = Math.floor(((at - count) * refcountBits) / 8);
      this.cache.changed(page, from, Math.ceil((at * refcountBits) / 8) - from);
      this.#cursor = first + count;
      const offset = first * clusterSize;
      const length = count * clusterSize;
      if (offset + length > MAX_OFFSET) throw new HostError(ERRNO.ENOSPC, 'the image cannot grow any more');
      const hit = this.#map.overlap(offset, length);
      if (hit !== undefined) throw this.#image.corrupt(`${hit} at ${toHex(offset)} counts as free`);
      return { offset, clusters: count, fresh: this.#image.extend(offset, length) };
    }
  }

  /** @throws HostError */
  *get(offset: number): Task<number> {
    const cluster = offset / this.#image.geometry.clusterSize;
    if (!this.#isCovered(cluster)) return 0;
    const page = yield* this.cache.load(this.#pageOffset(cluster));
    return getRefcount(page.view, cluster % this.#pageEntries, this.#image.geometry.refcountBits);
  }

  /** Adds one more reference. @returns false where the width does not allow it @throws HostError */
  *increment(offset: number): Task<boolean> {
    const { clusterSize, refcountBits } = this.#image.geometry;
    const cluster = offset / clusterSize;
    const value = yield* this.get(offset);
    if (value >= Math.min(2 ** refcountBits - 1, Number.MAX_SAFE_INTEGER - 1)) return false;
    const page = yield* this.cache.load(this.#pageOffset(cluster));
    this.#set(page, cluster, value + 1);
    return true;
  }

  /** Takes one reference away. @returns how many are left @throws HostError */
  *decrement(offset: number): Task<number> {
    const { clusterSize, refcountBits } = this.#image.geometry;
    const cluster = offset / clusterSize;
    if (!this.#isCovered(cluster))
      throw this.#image.corrupt(`the cluster at ${toHex(offset)} has no refcount`);
    const page = yield* this.cache.load(this.#pageOffset(cluster));
    const value = getRefcount(page.view, cluster % this.#pageEntries, refcountBits);
    if (value === 0)
      throw this.#image.corrupt(`the cluster at ${toHex(offset)} is in use and counts as free`);
    // Beyond what a number can hold exactly it stays: a leak at worst.
    if (value > Number.MAX_SAFE_INTEGER) return value;
    this.#set(page, cluster, value - 1);
    if (value === 1) {
      this.#full[Math.floor(cluster / this.#pageEntries)] = 0;
      if (cluster < this.#cursor) this.#cursor = cluster;
    }
    return value - 1;
  }

  /** Takes back what {@link allocate} gave and nothing refers to. @throws HostError */
  *release({ offset, clusters }: ClusterRun): Task {
    const { clusterSize } = this.#image.geometry;
    for (let i = 0; i < clusters; i++) yield* this.decrement(offset + i * clusterSize);
  }

  /** Writes all changed blocks; no order needs to be kept. @throws HostError */
  *write(): Task {
    if (this.cache.dirty.size > 0) yield* this.cache.write(this.cache.stage());
  }

  #set(page: Parameters<TableCache['changed']>[0], cluster: number, value: number): void {
    const { refcountBits } = this.#image.geometry;
    const index = cluster % this.#pageEntries;
    setRefcount(page.view, index, refcountBits, value);
    this.cache.changed(page, Math.floor((index * refcountBits) / 8), Math.ceil(refcountBits / 8));
  }

  #isCovered(cluster: number): boolean {
    return (this.#table[Math.floor(cluster / this.#image.geometry.blockEntries)] ?? 0) !== 0;
  }

  /** Where in the file the page is that counts this cluster. */
  #pageOffset(cluster: number): number {
    const { blockEntries, pageSize } = this.#image.geometry;
    const block = Math.floor(cluster / blockEntries);
    const inBlock = Math.floor((cluster % blockEntries) / this.#pageEntries);
    return this.#table[block]! + inBlock * pageSize;
  }

  /** Makes a block for clusters that have none. It lies in the first of them, so it counts itself. */
  *#addBlock(block: number): Task {
    yield* this.#growing.acquire();
    try {
      if (block >= this.#table.length) yield* this.#growTable(block);
      else if (this.#table[block] === 0) yield* this.#addBlockInTable(block);
    } finally {
      this.#growing.release();
    }
  }

  *#addBlockInTable(block: number): Task {
    const { geometry, io, pool, header } = this.#image;
    const offset = block * geometry.blockEntries * geometry.clusterSize;
    this.#claim(offset, geometry.clusterSize);
    const memory = pool.take(geometry.clusterSize);
    try {
      memory.bytes.fill(0, 0, geometry.clusterSize);
      setRefcount(viewOf(memory.bytes), 0, geometry.refcountBits, 1);
      yield* io.write(offset, memory, geometry.clusterSize);
      // The table must not refer to what is not there yet.
      yield* this.#image.sync();
      writeU64(viewOf(memory.bytes), 0, offset);
      yield* io.write(header.refcountTableOffset + 8 * block, memory, 8);
    } finally {
      pool.give(memory);
    }
    this.#table[block] = offset;
    this.#map.refcountBlocks.add(offset);
  }

  /** A new table behind everything, with the blocks that count it and themselves. */
  *#growTable(block: number): Task {
    const { geometry, header } = this.#image;
    const { clusterSize, blockEntries } = geometry;
    const perCluster = clusterSize / 8;
    let blocks = 1;
    let clusters = 0;
    for (;;) {
      const entries = Math.max(block + blocks, Math.ceil(1.5 * this.#table.length));
      clusters = Math.ceil(entries / perCluster);
      const needed = Math.ceil((blocks + clusters) / blockEntries);
      if (needed === blocks) break;
      blocks = needed;
    }
    if (clusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
      clusters = MAX_REFCOUNT_TABLE_BYTES / clusterSize;
      blocks = Math.max(blocks, Math.ceil((blocks + clusters) / blockEntries));
      if (block + blocks > clusters * perCluster)
        throw new HostError(ERRNO.ENOSPC, 'the refcount table cannot grow any more');
    }
    const start = block * blockEntries * clusterSize;
    const tableOffset = start + blocks * clusterSize;
    this.#claim(start, (blocks + clusters) * clusterSize);

    const table = new Float64Array(clusters * perCluster);
    table.set(this.#table);
    for (let i = 0; i < blocks; i++) table[block + i] = start + i * clusterSize;
    yield* this.#writeNewTable(table, block, blocks, clusters, start);
    yield* this.#image.sync();

    const old = { offset: header.refcountTableOffset, clusters: header.refcountTableClusters };
    header.refcountTableOffset = tableOffset;
    header.refcountTableClusters = clusters;
    yield* this.#image.writeHeader();
    const full = new Uint8Array((table.length * clusterSize) / geometry.pageSize);
    full.set(this.#full);
    this.#full = full;
    this.#table = table;
    this.#map.refcountTable.offset = tableOffset;
    this.#map.refcountTable.length = clusters * clusterSize;
    for (let i = 0; i < blocks; i++) this.#map.refcountBlocks.add(start + i * clusterSize);
    // The header that is in the file has no use for the old one.
    yield* this.release(old);
  }

  *#writeNewTable(table: Float64Array, block: number, blocks: number, clusters: number, start: number): Task {
    const { geometry, pool } = this.#image;
    const { clusterSize, blockEntries, refcountBits } = geometry;
    const memory = pool.take(clusterSize);
    const view = viewOf(memory.bytes);
    try {
      for (let i = 0; i < blocks; i++) {
        memory.bytes.fill(0, 0, clusterSize);
        const used = Math.min(blockEntries, blocks + clusters - i * blockEntries);
        for (let entry = 0; entry < used; entry++) setRefcount(view, entry, refcountBits, 1);
        yield* this.#image.io.write(start + i * clusterSize, memory, clusterSize);
      }
      const perCluster = clusterSize / 8;
      for (let i = 0; i < clusters; i++) {
        for (let entry = 0; entry < perCluster; entry++) {
          writeU64(view, 8 * entry, table[i * perCluster + entry]!);
        }
        yield* this.#image.io.write(start + (blocks + i) * clusterSize, memory, clusterSize);
      }
    } finally {
      pool.give(memory);
    }
  }

  #claim(offset: number, length: number): void {
    if (offset + length > MAX_OFFSET) throw new HostError(ERRNO.ENOSPC, 'the image cannot grow any more');
    const hit = this.#map.overlap(offset, length);
    if (hit !== undefined) throw this.#image.corrupt(`${hit} at ${toHex(offset)} counts as free`);
    this.#image.extend(offset, length);
  }
}
