import { DISK_OPERATION, StorageError, type Disk, type DiskClient, type DiskRequest } from '../disk.ts';
import type { Backing } from './backing.ts';
import { ERRNO, errnoOf, HostError } from './file-io.ts';
import { INCOMPATIBLE, SECTOR } from './format.ts';
import { l1EntriesFor, maxDiskSize } from './geometry.ts';
import type { Image } from './image.ts';
import type { Mapping } from './mapping.ts';
import { Operation } from './operation.ts';
import type { Reader } from './reader.ts';
import type { Refcounts } from './refcounts.ts';
import { shrinkMapping } from './shrink.ts';
import type { Task } from './task.ts';
import type { WriteBack } from './write-back.ts';
import type { Writer } from './writer.ts';
import type { Zeroer } from './zeroer.ts';

/** The parts of an open image, as `openImage` puts them together. */
export type ImageParts = {
  readonly image: Image;
  readonly mapping: Mapping;
  readonly refcounts: Refcounts;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly zeroer: Zeroer;
  readonly writeBack: WriteBack;
  readonly backing: Backing | undefined;
};

/** References given up that may wait for a flush of the guest's, before there is one of our own. */
const MAX_UNREFERENCED = 4096;

/** A qcow2 image as a disk. */
export class Qcow2Disk implements Disk {
  readonly path: string;
  readonly blockSize = SECTOR;
  readonly discards: boolean;
  readonly discardGranularity: number;
  readonly parts: ImageParts;
  readonly #readOnly: boolean;
  #client: DiskClient | undefined;
  #submitted: DiskRequest[] = [];
  #inFlight = 0;
  #told = false;
  #tidying = false;
  #closed = false;
  readonly #free: Operation[] = [];

  constructor(parts: ImageParts) {
    const { image, backing } = parts;
    this.parts = parts;
    this.path = image.path;
    this.#readOnly = image.readOnly;
    this.discards = !image.readOnly;
    this.discardGranularity = image.geometry.clusterSize;
    image.afterRun = () => this.#afterRun();
    if (backing !== undefined) image.submitBacking = () => backing.commit();
  }

  get size(): number {
    return this.parts.image.header.size;
  }

  get readOnly(): boolean {
    return this.#readOnly;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  attach(client: DiskClient): void {
    this.#client = client;
  }

  submit(request: DiskRequest): void {
    this.#inFlight++;
    this.#submitted.push(request);
  }

  commit(): void {
    const { image } = this.parts;
    // A request that ends at once lets the client submit the next one from within.
    for (const request of this.#submitted) this.#begin(request);
    this.#submitted.length = 0;
    if (!this.#tidying && this.parts.mapping.unreferenced.length > MAX_UNREFERENCED) {
      this.#tidying = true;
      image.tasks.spawn(this.#tidy());
    }
    image.run();
  }

  drain(): void {
    this.#drainUntil(() => this.#inFlight === 0 && this.#submitted.length === 0);
  }

  /** Sees all tasks through, those that nobody waits for too. */
  #drainAll(): void {
    this.#drainUntil(() => this.parts.image.tasks.active === 0 && this.#inFlight === 0);
  }

  #drainUntil(done: () => boolean): void {
    const { image, backing } = this.parts;
    this.commit();
    while (!done()) {
      const before = image.io.inFlight + (backing?.inFlight ?? 0);
      if (before === 0 && !image.tasks.ready) throw new Error(`${this.path}: I/O waits for nothing`);
      image.file.drain(image.io);
      backing?.disk.drain();
      this.commit();
    }
  }

  async resize(size: number): Promise<void> {
    const { image } = this.parts;
    const max = maxDiskSize(image.geometry);
    if (size % SECTOR !== 0 || size < 0 || size > max)
      throw new StorageError(
        this.path,
        'EINVAL',
        `${size} is no size that a disk with these clusters can have`,
      );
    if (this.#readOnly) throw new StorageError(this.path, 'EROFS', 'the image is open read-only');
    if (image.header.snapshotCount > 0 && image.geometry.version === 2)
      throw new StorageError(this.path, 'ENOTSUP', 'a version 2 image with snapshots cannot be resized');
    this.drain();
    try {
      await image.complete(size > this.size ? this.#grow(size) : this.#shrink(size));
    } catch (error) {
      throw this.#failure('cannot be resized', error);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { image, backing } = this.parts;
    this.drain();
    this.#drainAll();
    let failure: unknown;
    try {
      if (!image.readOnly) {
        await image.complete(this.#finish());
        this.#drainAll();
      }
    } catch (error) {
      failure = error;
    }
    image.pool.close();
    image.file.close();
    await backing?.disk.close();
    if (failure !== undefined) throw this.#failure('what was written last may be lost', failure);
  }

  #failure(what: string, error: unknown): StorageError {
    const reason = error instanceof HostError ? error.message : String(error);
    return new StorageError(this.path, 'EIO', `${what}: ${reason}`);
  }

  #afterRun(): void {
    if (!this.#told) return;
    this.#told = false;
    this.#client?.batchEnd();
  }

  #begin(request: DiskRequest): void {
    const operation = this.#free.pop() ?? new Operation((finished) => this.#finished(finished));
    const { offset, length } = request;
    operation.request = request;
    operation.kind = request.operation;
    operation.vector = request.vector;
    operation.begin(undefined, offset, length);
    const refusal = this.#refusal(request);
    if (refusal !== 0) {
      operation.partDone(refusal);
      return;
    }
    const { image, reader, writer } = this.parts;
    switch (request.operation) {
      case DISK_OPERATION.read:
        operation.handler = reader;
        reader.advance(operation);
        return;
      case DISK_OPERATION.write:
        operation.handler = writer;
        writer.advance(operation);
        return;
      default:
        image.tasks.spawn(this.#perform(operation, request));
    }
  }

  #refusal({ operation, offset, length, vector }: DiskRequest): number {
    if (operation === DISK_OPERATION.flush) return 0;
    const isValid = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
    if (!isValid(offset) || !isValid(length) || offset + length > this.size) return ERRNO.EINVAL;
    const hasVector = operation === DISK_OPERATION.read || operation === DISK_OPERATION.write;
    if (hasVector && vector.byteLength !== length) return ERRNO.EINVAL;
    if (operation === DISK_OPERATION.read) return 0;
    if (this.#readOnly) return ERRNO.EROFS;
    return this.parts.image.readOnly ? ERRNO.EIO : 0;
  }

  *#perform(operation: Operation, request: DiskRequest): Task {
    const { image, zeroer, writeBack } = this.parts;
    const { offset, length, unmap } = request;
    let errno = 0;
    try {
      if (request.operation === DISK_OPERATION.flush) {
        if (!this.#readOnly) yield* writeBack.flush();
      } else if (length > 0) {
        image.checkWritable();
        if (request.operation === DISK_OPERATION.discard) yield* zeroer.discard(offset, length);
        else yield* zeroer.writeZeroes(offset, length, unmap);
      }
    } catch (error) {
      errno = errnoOf(error);
    }
    operation.partDone(errno);
  }

  #finished(operation: Operation): void {
    const request = operation.request!;
    const { errno } = operation;
    operation.request = undefined;
    operation.vector = operation.ownVector;
    this.#free.push(operation);
    this.#inFlight--;
    this.#told = true;
    this.#client?.completed(request, errno);
  }

  *#tidy(): Task {
    try {
      yield* this.parts.writeBack.flush();
    } catch {
      // The guest's next flush tells it.
    }
    this.#tidying = false;
  }

  /** Everything to the file, and the image clean. */
  *#finish(): Task {
    const { image, mapping, refcounts, writeBack } = this.parts;
    do {
      yield* writeBack.flush();
      yield* writeBack.reclaim();
    } while (mapping.isDirty);
    yield* refcounts.write();
    yield* image.sync();
    if ((image.header.incompatible & INCOMPATIBLE.dirty) === 0) return;
    image.header.incompatible &= ~INCOMPATIBLE.dirty;
    yield* image.writeHeader();
  }

  *#grow(size: number): Task {
    const { image, mapping, zeroer, writeBack, backing } = this.parts;
    const { header, geometry } = image;
    const old = header.size;
    yield* writeBack.flush();
    yield* mapping.growL1(l1EntriesFor(geometry, size));
    // What the last cluster and the backing file have behind the old end must not come to light.
    const { clusterSize } = geometry;
    const clusterEnd = Math.min(size, Math.ceil(old / clusterSize) * clusterSize);
    const hidden = Math.max(clusterEnd, Math.min(size, backing?.size ?? 0));
    header.size = size;
    try {
      if (hidden > old) yield* zeroer.writeZeroes(old, hidden - old, true);
      yield* writeBack.flush();
      yield* image.writeHeader();
    } catch (error) {
      header.size = old;
      throw error;
    }
  }

  *#shrink(size: number): Task {
    const { image, mapping, zeroer, writeBack } = this.parts;
    const { header } = image;
    if (size === header.size) return;
    yield* shrinkMapping(image, mapping, zeroer, size);
    yield* writeBack.flush();
    header.size = size;
    yield* image.writeHeader();
    yield* writeBack.reclaim();
  }
}
