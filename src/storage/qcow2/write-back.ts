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
 * where nothing was written since the last. A new refcount block takes one more (once in 2 GiB with clusters of
 * 64 KiB), the growth of the refcount table or the L1 table two, around the sector of the header that switches over.
 * With the dirty bit set (lazy refcounts), step 2 leaves the refcount blocks out.
 */
import { IO } from '../../kvm/io-ring.ts';
import { errnoOf } from './file-io.ts';
import type { Image } from './image.ts';
import type { Mapping, Unreferenced } from './mapping.ts';
import type { Refcounts } from './refcounts.ts';
import { Mutex, type Task } from './task.ts';

export class WriteBack {
  readonly #image: Image;
  readonly #mapping: Mapping;
  readonly #refcounts: Refcounts;
  readonly #flushing: Mutex;
  #asked = 0;
  #done = 0;
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
    this.#flushing = new Mutex(image.tasks);
    this.#reclaiming = new Mutex(image.tasks);
  }

  /**
   * All that was complete when this was called is on stable storage when it ends. Flushes that are asked for while
   * one is at work share the next one. @throws HostError
   */
  *flush(): Task {
    const ticket = ++this.#asked;
    yield* this.#flushing.acquire();
    try {
      if (this.#done >= ticket) return;
      const covered = this.#asked;
      yield* this.#flush();
      this.#done = covered;
    } finally {
      this.#flushing.release();
    }
  }

  *#flush(): Task {
    const mapping = this.#mapping;
    const image = this.#image;
    if (!mapping.isDirty) {
      yield* image.sync();
      return;
    }
    image.checkWritable();
    const tables = mapping.cache.stage();
    const l1 = mapping.stageL1();
    const unreferenced = mapping.unreferenced;
    mapping.unreferenced = [];
    const { refersToNew } = mapping;
    mapping.refersToNew = false;
    let atL1 = false;
    try {
      if (refersToNew) {
        if (!image.lazy) yield* this.#refcounts.write();
        yield* image.sync();
      }
    } catch (error) {
      mapping.cache.unstage(tables);
      mapping.unstageL1(l1);
      mapping.refersToNew = true;
      mapping.unreferenced = [...unreferenced, ...mapping.unreferenced];
      throw error;
    }
    try {
      yield* mapping.cache.write(tables);
      atL1 = true;
      yield* mapping.writeL1(l1);
      yield* image.sync();
    } catch (error) {
      if (!atL1) mapping.unstageL1(l1);
      mapping.unreferenced = [...unreferenced, ...mapping.unreferenced];
      throw error;
    }
    if (unreferenced.length > 0) {
      this.#stable.push(...unreferenced);
      image.tasks.spawn(this.#reclaimQuietly());
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
