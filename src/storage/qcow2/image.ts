/** What all parts of an open image share: its file, its header, and what has become of it. */
import type { DiskCache } from '../disk.ts';
import { BufferPool } from './buffer-pool.ts';
import { ERRNO, FileIo, HostError, errnoOf } from './file-io.ts';
import { alignUp, INCOMPATIBLE, SECTOR } from './format.ts';
import type { Geometry } from './geometry.ts';
import { isLazy, viewOf, writeU64, type Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { Mutex, Tasks, type Task } from './task.ts';

/** Rounds of what completes at once, before the event loop has its turn again. */
const ROUNDS = 16;

export type ImageOptions = {
  readonly cache: DiskCache;
  /** of the L2 cache, in bytes */
  readonly cacheSize: number;
  /** of memory for copying writes, in bytes */
  readonly bufferSize: number;
  readonly log: (line: string) => void;
};

export class Image {
  readonly path: string;
  readonly file: HostFile;
  readonly header: Header;
  readonly geometry: Geometry;
  readonly options: ImageOptions;
  readonly tasks = new Tasks();
  readonly io: FileIo;
  readonly pool: BufferPool;
  /** the first sector as it is in the file */
  readonly #sector: Uint8Array;
  readonly #headerMutex: Mutex;
  /** No writes any more: opened so, or the image was found to be corrupt. */
  readOnly: boolean;
  /** The host lost something that was written: nothing may be told to be safe after that. */
  failed = false;
  /** end of the clusters that are in the file or were allocated, in bytes */
  end: number;
  /** clusters from here on were never written since the file ended here: they read as zeros */
  freshFrom: number;
  /** after each batch of completions, and whenever something was begun */
  afterRun: () => void = () => undefined;
  /** hands requests to backing files over */
  submitBacking: () => void = () => undefined;
  /** `changes` of the I/O when the last sync began. The first one is always made: who wrote before us may not have */
  #synced = -1;
  /** for statistics */
  syncs = 0;
  #running = false;
  #again = false;
  #scheduled = false;

  /** "Lazy refcounts bit": refcounts go to the file when the image is closed, and are counted again after a crash */
  readonly lazy: boolean;

  constructor(file: HostFile, header: Header, firstSector: Uint8Array, options: ImageOptions) {
    this.path = file.path;
    this.file = file;
    this.header = header;
    this.geometry = header.geometry;
    this.options = options;
    this.readOnly = file.readOnly;
    this.lazy = isLazy(header);
    this.#sector = new Uint8Array(SECTOR);
    this.#sector.set(firstSector.subarray(0, SECTOR));
    this.io = new FileIo(file, this.tasks, () => this.run());
    this.pool = new BufferPool(file, this.tasks, options.bufferSize);
    this.#headerMutex = new Mutex(this.tasks);
    this.end = alignUp(file.size(), this.geometry.clusterSize);
    this.freshFrom = file.grows ? this.end : Number.MAX_SAFE_INTEGER;
  }

  /** Lets all go on that can, and hands what they queue to the host. Within a call of itself it returns at once. */
  run(): void {
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    let rounds = 0;
    do this.#runOnce();
    while ((this.#again || this.tasks.ready) && ++rounds < ROUNDS);
    this.#running = false;
    if (!this.#again && !this.tasks.ready) return;
    // What the host completes at once could go on for ever: others have their turn.
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.run();
    });
  }

  #runOnce(): void {
    this.#again = false;
    this.tasks.run();
    this.io.submit();
    this.submitBacking();
    this.afterRun();
  }

  /** Sees a task through on the event loop. */
  async complete<Result>(task: Task<Result>): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.tasks.spawn(settle(task, resolve, reject));
      this.run();
    });
  }

  /** The image contradicts itself: says so in the image and the log, and writes nothing any more. */
  corrupt(reason: string): HostError {
    if (!this.readOnly) {
      this.readOnly = true;
      this.options.log(`${this.path}: the image is corrupt and is read-only from now on: ${reason}`);
      if (this.geometry.version === 3) this.tasks.spawn(this.#markCorrupt());
    }
    return new HostError(ERRNO.EIO, reason);
  }

  /** @throws HostError where the image must not be written to */
  checkWritable(): void {
    if (this.readOnly) throw new HostError(ERRNO.EIO, 'the image is read-only');
  }

  /** With lazy refcounts: tells that those in the file are behind, before the first of them is. @throws HostError */
  *markDirty(): Task {
    if (!this.lazy || (this.header.incompatible & INCOMPATIBLE.dirty) !== 0) return;
    this.header.incompatible |= INCOMPATIBLE.dirty;
    try {
      yield* this.writeHeader();
    } catch (error) {
      this.header.incompatible &= ~INCOMPATIBLE.dirty;
      throw error;
    }
  }

  *#markCorrupt(): Task {
    this.header.incompatible |= INCOMPATIBLE.corrupt;
    try {
      yield* this.writeHeader();
    } catch (error) {
      this.options.log(`${this.path}: cannot be marked as corrupt: errno ${errnoOf(error)}`);
    }
  }

  /**
   * Writes the fields that change, all in the first sector, so that a power cut leaves the old or the new ones. What
   * they refer to must be synced before. @throws HostError
   */
  *writeHeader(): Task {
    yield* this.#headerMutex.acquire();
    const buffer = this.pool.take(SECTOR);
    try {
      this.#updateSector();
      buffer.bytes.set(this.#sector);
      yield* this.io.write(0, buffer, SECTOR);
      yield* this.sync();
    } finally {
      this.pool.give(buffer);
      this.#headerMutex.release();
    }
  }

  #updateSector(): void {
    const { header } = this;
    const view = viewOf(this.#sector);
    writeU64(view, 24, header.size);
    view.setUint32(36, header.l1Entries);
    writeU64(view, 40, header.l1Offset);
    writeU64(view, 48, header.refcountTableOffset);
    view.setUint32(56, header.refcountTableClusters);
    if (this.geometry.version === 2) return;
    view.setUint32(76, header.incompatible);
    view.setBigUint64(88, header.autoclear);
  }

  /** Notes that clusters are in use. @returns whether they read as zeros, being behind all that was ever written */
  extend(offset: number, length: number): boolean {
    const fresh = offset >= this.freshFrom;
    this.end = Math.max(this.end, offset + length);
    this.freshFrom = Math.max(this.freshFrom, offset + length);
    return fresh;
  }

  /** What was written before is on stable storage then, unless the cache mode is `unsafe`. @throws HostError */
  *sync(): Task {
    if (this.options.cache === 'unsafe') return;
    // What a failed fdatasync lost is taken for clean by the next one, which would succeed.
    if (this.failed) throw new HostError(ERRNO.EIO, 'an earlier sync failed');
    const changes = this.io.changes;
    if (changes === this.#synced) return;
    try {
      yield* this.io.sync();
      this.#synced = Math.max(this.#synced, changes);
      this.syncs++;
    } catch (error) {
      this.failed = true;
      this.options.log(
        `${this.path}: fdatasync failed (errno ${errnoOf(error)}): what was written may be lost`,
      );
      throw error;
    }
  }
}

function* settle<Result>(
  task: Task<Result>,
  resolve: (result: Result) => void,
  reject: (error: unknown) => void,
): Task {
  try {
    resolve(yield* task);
  } catch (error) {
    reject(error);
  }
}
