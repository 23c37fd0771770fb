/**
 * When metadata goes to the file.
 *
 * What a power cut may leave: each sector that was written since the last fdatasync is there or not, in any
 * combination. The image must open without repair, and have all that was flushed. The parts, by what refers to what:
 *
 *     header -> L1 -> L2 -> data clusters, copied parts among them
 *     header -> refcount table -> refcount blocks, which must count all of these
 *
 * A reference may be in the file only when what it refers to is stable, and counted; a count that nothing refers to
 * is only a leak. So tables change in memory when the data has been written, and a flush does this:
 *
 * 1. takes a copy of the changed parts of L2 and L1 tables. What they refer to has been written, all of it, before;
 * 2. where they refer to anything new: writes changed refcount blocks and syncs. This sync makes stable at once the
 *    data, the counts, and the first contents of new L2 tables (mapping.ts writes a new table as what it replaces
 *    before L1 refers to it: thus L1 and L2 need no order between them);
 * 3. writes the copies. Entries added meanwhile are not in them: their data came too late for the sync of step 2;
 * 4. syncs. The flush is done.
 * 5. References that the tables gave up are in the file no more, only now. The counts are decremented, after
 *    requests have ended that found the cluster before; then it may be used again.
 *
 * That is two syncs where clusters were allocated, which is what one dependency between two writes takes without a
 * journal; one where data went to allocated clusters only, or entries changed that refer to nothing new; and none
 * where nothing was written since the last. Flushes that come in a row share them: what waits when one comes to its
 * step 4 goes through steps 1 and 2 before that sync, which then is its first one too. A new refcount block takes one
 * more (once in 2 GiB with clusters of 64 KiB), the growth of the refcount table or the L1 table two, around the
 * sector of the header that switches over. With the dirty bit set (lazy refcounts), step 2 leaves the refcount blocks
 * out.
 */
import { IO } from '../../kvm/io-ring.ts';
import { errnoOf } from './file-io.ts';
import type { Image } from './image.ts';
import type { Mapping, Unreferenced } from './mapping.ts';
import type { Refcounts } from './refcounts.ts';
import type { StagedPage } from './table-cache.ts';
import { Mutex, pause, type Task, type Waiter } from './task.ts';

/** Changes on their way to the file. */
type Batch = {
  /** number of the last flush that this is all for */
  readonly covers: number;
  readonly tables: readonly StagedPage[];
  readonly l1: ReturnType<Mapping['stageL1']>;
  readonly unreferenced: readonly Unreferenced[];
  readonly refersToNew: boolean;
};

/** Somebody who waits for a flush. */
type Flush = { readonly number: number; readonly waiters: Waiter[]; over: boolean; error: Error | undefined };

export class WriteBack {
  readonly #image: Image;
  readonly #mapping: Mapping;
  readonly #refcounts: Refcounts;
  #working = false;
  #asked = 0;
  #flushes: Flush[] = [];
  readonly #reclaiming: Mutex;
  /** what no table in the file refers to any more, and counts still */
  #stable: Unreferenced[] = [];
  /** told of clusters that may be used for something else from now on */
  readonly #onReclaim: () => void;

  constructor(image: Image, mapping: Mapping, refcounts: Refcounts, onReclaim: () => void) {
    this.#image = image;
    this.#mapping = mapping;
    this.#refcounts = refcounts;
    this.#onReclaim = onReclaim;
    this.#reclaiming = new Mutex(image.tasks);
  }

  /**
   * All that was complete when this was called is on stable storage when it ends. Flushes that are asked for while
   * one is at work share the next one. @throws HostError
   */
  *flush(): Task {
    const flush: Flush = { number: ++this.#asked, waiters: [], over: false, error: undefined };
    this.#flushes.push(flush);
    if (!this.#working) {
      this.#working = true;
      this.#image.tasks.spawn(this.#work());
    }
    while (!flush.over) yield* pause(this.#image.tasks, flush.waiters);
    if (flush.error !== undefined) throw flush.error;
  }

  /** Serves flushes until there are none. One of these is at work at a time. */
  *#work(): Task {
    let next: Batch | undefined;
    while (next !== undefined || this.#flushes.length > 0) {
      const batch: Batch | undefined = next ?? (yield* this.#begin());
      next = undefined;
      if (batch === undefined || !(yield* this.#writeTables(batch))) continue;
      if (this.#asked > batch.covers) next = yield* this.#prepare();
      try {
        yield* this.#image.sync();
      } catch (error) {
        if (next !== undefined) this.#abandon(next, error);
        next = undefined;
        this.#mapping.unreferenced.unshift(...batch.unreferenced);
        this.#end(batch.covers, error);
        continue;
      }
      if (batch.unreferenced.length > 0) {
        this.#stable.push(...batch.unreferenced);
        this.#image.tasks.spawn(this.#reclaimQuietly());
      }
      this.#end(batch.covers);
    }
    this.#working = false;
  }

  /** Steps 1 and 2. Undefined where that was all, or has failed. */
  *#begin(): Task<Batch | undefined> {
    const batch = yield* this.#prepare();
    if (batch?.refersToNew !== true) return batch;
    try {
      yield* this.#image.sync();
    } catch (error) {
      this.#abandon(batch, error);
      return undefined;
    }
    return batch;
  }

  /** Step 1, and step 2 but for its sync. Undefined where it has failed, and those who wait for it know. */
  *#prepare(): Task<Batch | undefined> {
    const mapping = this.#mapping;
    const covers = this.#asked;
    try {
      if (mapping.isDirty) this.#image.checkWritable();
    } catch (error) {
      this.#end(covers, error);
      return undefined;
    }
    const { unreferenced, refersToNew } = mapping;
    const batch: Batch = {
      covers,
      tables: mapping.cache.stage(),
      l1: mapping.stageL1(),
      unreferenced,
      refersToNew,
    };
    mapping.unreferenced = [];
    mapping.refersToNew = false;
    if (!refersToNew || this.#image.lazy) return batch;
    try {
      yield* this.#refcounts.write();
      return batch;
    } catch (error) {
      this.#abandon(batch, error);
      return undefined;
    }
  }

  /** Step 3. @returns false where it has failed, and those who wait for it know */
  *#writeTables(batch: Batch): Task<boolean> {
    const mapping = this.#mapping;
    let atL1 = false;
    try {
      yield* mapping.cache.write(batch.tables);
      atL1 = true;
      yield* mapping.writeL1(batch.l1);
      return true;
    } catch (error) {
      if (!atL1) mapping.unstageL1(batch.l1);
      mapping.unreferenced.unshift(...batch.unreferenced);
      this.#end(batch.covers, error);
      return false;
    }
  }

  /** Nothing of the batch has gone to the file. */
  #abandon(batch: Batch, error: unknown): void {
    const mapping = this.#mapping;
    mapping.cache.unstage(batch.tables);
    mapping.unstageL1(batch.l1);
    mapping.refersToNew ||= batch.refersToNew;
    mapping.unreferenced.unshift(...batch.unreferenced);
    this.#end(batch.covers, error);
  }

  #end(covered: number, cause?: unknown): void {
    const error =
      cause === undefined || cause instanceof Error ? cause : new Error('a flush failed', { cause });
    const waiting = this.#flushes;
    this.#flushes = waiting.filter(({ number }) => number > covered);
    for (const flush of waiting) {
      if (flush.number > covered) continue;
      flush.over = true;
      flush.error = error;
      this.#image.tasks.wakeAll(flush.waiters);
    }
  }

  /** Nobody waits for it: what cannot be reclaimed is a leak. */
  *#reclaimQuietly(): Task {
    try {
      yield* this.reclaim();
    } catch (error) {
      this.#image.options.log(`${this.#image.path}: space cannot be freed: errno ${errnoOf(error)}`);
    }
  }

  /** Step 5 for all that is due. @throws HostError */
  *reclaim(): Task {
    yield* this.#reclaiming.acquire();
    try {
      while (this.#stable.length > 0) {
        const batch = this.#stable;
        this.#stable = [];
        yield* this.#image.io.quiesce();
        yield* this.#punch(batch);
        const { clusterSize } = this.#image.geometry;
        this.#onReclaim();
        for (const { offset, clusters } of batch) {
          for (let i = 0; i < clusters; i++) yield* this.#refcounts.decrement(offset + i * clusterSize);
        }
      }
    } finally {
      this.#reclaiming.release();
    }
  }

  /** Gives space of discarded clusters back to the host, before they can be used again. */
  *#punch(batch: readonly Unreferenced[]): Task {
    const { io, geometry } = this.#image;
    const { clusterSize } = geometry;
    for (const { offset, clusters, discarded } of batch) {
      if (!discarded) continue;
      let from = 0;
      while (from < clusters) {
        let count = 0;
        while (
          from + count < clusters &&
          (yield* this.#refcounts.get(offset + (from + count) * clusterSize)) === 1
        ) {
          count++;
        }
        if (count > 0) {
          const join = io.join();
          join.expect(0, false);
          io.queue(IO.punch, offset + from * clusterSize, count * clusterSize, undefined, join);
          try {
            yield* join.wait();
          } catch {
            // A file system without holes: the space stays with the image, and is used again by it.
            return;
          }
        }
        from += count + 1;
      }
    }
  }
}
