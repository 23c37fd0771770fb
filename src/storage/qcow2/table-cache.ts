import { IO } from '../../kvm/io-ring.ts';
import type { BufferPool } from './buffer-pool.ts';
import { errnoOf, HostError, type FileIo, type IoBuffer } from './file-io.ts';
import { alignDown, alignUp, SECTOR } from './format.ts';
import { viewOf } from './header.ts';
import { pause, type Task, type Tasks, type Waiter } from './task.ts';

/** A table, or a part of a large one, in memory. */
export class Page {
  /** in the image */
  offset = -1;
  readonly memory: IoBuffer;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  loading = true;
  /** used since eviction last looked */
  used = false;
  /** round of {@link Tasks} that it was loaded in */
  round = 0;
  /** changed bytes that are not in the file; none where `dirtyTo` is 0 */
  dirtyFrom = 0;
  dirtyTo = 0;
  /** copies of it that are on their way to the file */
  writing = 0;
  /** to be thrown away once loaded */
  doomed = false;
  readonly waiters: Waiter[] = [];

  constructor(memory: IoBuffer, size: number) {
    this.memory = memory;
    this.bytes = memory.bytes.subarray(0, size);
    this.view = viewOf(this.bytes);
  }
}

/** Changed bytes of a page as they were at one moment. */
export type StagedPage = {
  readonly page: Page;
  readonly from: number;
  readonly length: number;
  readonly memory: IoBuffer;
};

/**
 * Pages of one kind of table by their place in the file, as many as the limit allows; clean ones that were not used
 * of late leave first ("clock"). Changed pages stay until whoever knows the order of writes has written them.
 */
export class TableCache {
  readonly #io: FileIo;
  readonly #tasks: Tasks;
  readonly #pool: BufferPool;
  readonly #pageSize: number;
  readonly #limit: number;
  /** makes changed pages clean: called where there is no room */
  readonly #clean: () => Task;
  readonly #pages = new Map<number, Page>();
  readonly #clock: Page[] = [];
  #hand = 0;
  readonly dirty = new Set<Page>();
  /** for statistics */
  hits = 0;
  misses = 0;

  /** @param limit in bytes */
  constructor(
    io: FileIo,
    tasks: Tasks,
    pool: BufferPool,
    pageSize: number,
    limit: number,
    clean: () => Task,
  ) {
    this.#io = io;
    this.#tasks = tasks;
    this.#pool = pool;
    this.#pageSize = pageSize;
    this.#limit = Math.max(8, Math.floor(limit / pageSize));
    this.#clean = clean;
  }

  /** bytes in use */
  get size(): number {
    return this.#clock.length * this.#pageSize;
  }

  /** The page at this offset, if it is here. */
  find(offset: number): Page | undefined {
    const page = this.#pages.get(offset);
    if (page === undefined || page.loading) return undefined;
    page.used = true;
    this.hits++;
    return page;
  }

  /**
   * The page at this offset, which stays here until the task waits again.
   * @throws HostError
   */
  *load(offset: number): Task<Page> {
    for (;;) {
      const page = this.#pages.get(offset);
      if (page === undefined) {
        const loaded = yield* this.#fetch(offset);
        if (loaded !== undefined) return loaded;
      } else if (!page.loading) {
        page.used = true;
        return page;
      } else {
        const errno = yield* pause(this.#tasks, page.waiters);
        if (errno !== 0) throw new HostError(errno);
      }
    }
  }

  /** For requests that are no tasks: loads the page and wakes `waiter`, with an errno where that failed. */
  request(offset: number, waiter: Waiter): void {
    const page = this.#pages.get(offset);
    if (page?.loading === true) page.waiters.push(waiter);
    else this.#tasks.spawn(this.#loadFor(offset, waiter));
  }

  *#loadFor(offset: number, waiter: Waiter): Task {
    try {
      yield* this.load(offset);
      this.#tasks.wake(waiter, 0);
    } catch (error) {
      this.#tasks.wake(waiter, errnoOf(error));
    }
  }

  /** A page of zeros that need not be read: of a table that was just made. */
  insertZeros(offset: number): void {
    this.drop(offset);
    const page = this.#evict();
    if (page === undefined) return;
    page.bytes.fill(0);
    page.loading = false;
    this.#enter(offset, page);
  }

  /** Notes that bytes of the page were changed. */
  changed(page: Page, at: number, length: number): void {
    if (page.dirtyTo === 0) {
      page.dirtyFrom = at;
      page.dirtyTo = at + length;
      this.dirty.add(page);
      return;
    }
    page.dirtyFrom = Math.min(page.dirtyFrom, at);
    page.dirtyTo = Math.max(page.dirtyTo, at + length);
  }

  /** Forgets the page: its table is given up. */
  drop(offset: number): void {
    const page = this.#pages.get(offset);
    if (page === undefined) return;
    this.#pages.delete(offset);
    this.dirty.delete(page);
    page.dirtyTo = 0;
    if (page.loading) page.doomed = true;
    else page.offset = -1;
  }

  /** Copies what is changed now, and takes it for written; {@link write} writes it. */
  stage(): StagedPage[] {
    const staged: StagedPage[] = [];
    for (const page of this.dirty) {
      const from = alignDown(page.dirtyFrom, SECTOR);
      const length = Math.min(alignUp(page.dirtyTo, SECTOR), this.#pageSize) - from;
      const memory = this.#pool.take(length);
      memory.bytes.set(page.bytes.subarray(from, from + length));
      page.dirtyTo = 0;
      page.writing++;
      staged.push({ page, from, length, memory });
    }
    this.dirty.clear();
    return staged;
  }

  /** Writes what was staged. Where that fails it is changed again. @throws HostError */
  *write(staged: readonly StagedPage[]): Task {
    const join = this.#io.join();
    for (const { page, from, length, memory } of staged) {
      if (page.offset >= 0) this.#io.queueBytes(IO.write, page.offset + from, memory, length, join);
    }
    try {
      yield* join.wait();
    } catch (error) {
      this.#settle(staged, true);
      throw error;
    }
    this.#settle(staged, false);
  }

  /** Gives staged pages back that will not be written. */
  unstage(staged: readonly StagedPage[]): void {
    this.#settle(staged, true);
  }

  #settle(staged: readonly StagedPage[], again: boolean): void {
    for (const { page, from, length, memory } of staged) {
      page.writing--;
      this.#pool.give(memory);
      if (again && page.offset >= 0) this.changed(page, from, length);
    }
  }

  *#fetch(offset: number): Task<Page | undefined> {
    this.misses++;
    const page = this.#evict();
    if (page === undefined) {
      yield* this.#clean();
      return undefined;
    }
    page.loading = true;
    this.#enter(offset, page);
    let errno = 0;
    try {
      yield* this.#io.read(offset, page.memory, this.#pageSize);
    } catch (error) {
      errno = errnoOf(error);
    }
    page.loading = false;
    page.round = this.#tasks.round;
    const doomed = page.doomed;
    if (doomed || errno !== 0) {
      page.doomed = false;
      if (!doomed) this.#pages.delete(offset);
      page.offset = -1;
    }
    this.#tasks.wakeAll(page.waiters, errno);
    if (errno !== 0) throw new HostError(errno);
    return doomed ? undefined : page;
  }

  #enter(offset: number, page: Page): void {
    page.offset = offset;
    page.used = true;
    page.round = this.#tasks.round;
    this.#pages.set(offset, page);
  }

  /** A page to fill. Undefined where all are changed, or in use otherwise. */
  #evict(): Page | undefined {
    if (this.#clock.length < this.#limit) return this.#grow();
    let busy = false;
    for (let i = 2 * this.#clock.length; i > 0; i--) {
      const page = this.#clock[this.#hand]!;
      this.#hand = (this.#hand + 1) % this.#clock.length;
      if (page.dirtyTo > 0 || page.writing > 0) continue;
      if (page.loading || page.round === this.#tasks.round) busy = true;
      else if (page.used && page.offset >= 0) page.used = false;
      else {
        if (page.offset >= 0) this.#pages.delete(page.offset);
        page.offset = -1;
        return page;
      }
    }
    // Those who wait for a page must find it: with more requests at a time than pages, there are more pages. So
    // there are where nothing can be cleaned, all being on its way to the file.
    return busy || this.dirty.size === 0 ? this.#grow() : undefined;
  }

  #grow(): Page {
    const page = new Page(this.#pool.take(this.#pageSize), this.#pageSize);
    this.#clock.push(page);
    return page;
  }
}
