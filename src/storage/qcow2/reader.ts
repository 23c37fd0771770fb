import { IO } from '../../kvm/io-ring.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import type { Backing } from './backing.ts';
import type { Decompress } from './compression.ts';
import { ERRNO, errnoOf, HostError, type IoBuffer } from './file-io.ts';
import { toHex } from './format.ts';
import type { Image } from './image.ts';
import { Extent, findExtent, KIND } from './l2-entry.ts';
import type { Mapping } from './mapping.ts';
import { Operation, type OperationHandler } from './operation.ts';
import { pause, type Task, type Waiter } from './task.ts';
import { copyToVector, zeroVector } from './vector-bytes.ts';

/** Decompressed clusters that are kept: neighbouring small reads come together. */
const UNPACKED_BYTES = 4 * 2 ** 20;

export class Reader implements OperationHandler {
  readonly #image: Image;
  readonly #mapping: Mapping;
  readonly #backing: Backing | undefined;
  readonly #decompress: Decompress;
  readonly #extent = new Extent();
  readonly #slice = new IoVector();
  /** by slot: where in the operation's vector its bytes go, and how many */
  readonly #slotStart: number[] = [];
  readonly #slotLength: number[] = [];
  readonly #unpacked = new Map<number, Uint8Array>();
  readonly #unpacking = new Map<number, Waiter[]>();
  #generation = 0;
  readonly #own: Operation[] = [];
  readonly #waiting = new Map<Operation, Waiter>();

  constructor(image: Image, mapping: Mapping, backing: Backing | undefined, decompress: Decompress) {
    this.#image = image;
    this.#mapping = mapping;
    this.#backing = backing;
    this.#decompress = decompress;
  }

  advance(operation: Operation): void {
    const { geometry } = this.#image;
    const { cache } = this.#mapping;
    const extent = this.#extent;
    while (operation.at < operation.end) {
      const { at } = operation;
      const table = this.#mapping.tableOf(at);
      if (table === 0) {
        const stop = Math.min(operation.end, at - (at % geometry.l2Coverage) + geometry.l2Coverage);
        this.#readUnallocated(operation, at, stop - at);
        operation.at = stop;
        continue;
      }
      if (table < 0) {
        operation.partDone(this.#image.corrupt(`the L1 entry for ${toHex(at)} is not aligned`).errno);
        return;
      }
      const pageOffset = this.#mapping.pageOffset(table, at);
      const page = cache.find(pageOffset);
      if (page === undefined) {
        cache.request(pageOffset, operation);
        return;
      }
      findExtent(geometry, page.view, at, operation.end - at, extent);
      operation.at = at + extent.length;
      this.#readExtent(operation, at, extent);
    }
    operation.partDone(0);
  }

  ioDone(operation: Operation, slot: number, result: number): void {
    const length = this.#slotLength[slot]!;
    if (result >= 0 && result < length) {
      // Behind the end of the file there are zeros.
      zeroVector(this.#image.file, operation.vector, this.#slotStart[slot]! + result, length - result);
    }
    operation.partDone(result < 0 ? -result : 0);
  }

  /** Whether this place on the disk reads as zeros where its kind is `unallocated`. */
  hasBacking(offset: number): boolean {
    return this.#backing !== undefined && offset < this.#backing.size;
  }

  /** Clusters are used for something else from now on. */
  forgetUnpacked(): void {
    this.#unpacked.clear();
    this.#generation++;
  }

  /** Reads what the guest would. @throws HostError */
  *read(offset: number, length: number, memory: IoBuffer, memoryAt: number): Task {
    const operation = this.#own.pop() ?? new Operation((done) => this.#finishOwn(done));
    operation.vector.clear();
    operation.vector.add(memory.buffer, memory.offset + memoryAt, length);
    operation.begin(this, offset, length);
    this.#waiting.set(operation, this.#image.tasks.current);
    operation.resume(0);
    const errno = yield;
    if (errno !== 0) throw new HostError(errno);
  }

  #finishOwn(operation: Operation): void {
    const waiter = this.#waiting.get(operation);
    this.#waiting.delete(operation);
    this.#own.push(operation);
    if (waiter !== undefined) this.#image.tasks.wake(waiter, operation.errno);
  }

  #readExtent(operation: Operation, at: number, extent: Extent): void {
    const { length } = extent;
    switch (extent.kind) {
      case KIND.data:
        this.#readData(operation, at, length, extent.host);
        return;
      case KIND.zero:
        zeroVector(this.#image.file, operation.vector, at - operation.offset, length);
        return;
      case KIND.unallocated:
        this.#readUnallocated(operation, at, length);
        return;
      case KIND.compressed: {
        operation.partBegun();
        const { host, compressedSize } = extent.entry;
        this.#image.tasks.spawn(this.#readCompressed(operation, at, length, host, compressedSize));
        return;
      }
      case KIND.invalid:
        operation.errno ||= this.#image.corrupt(`the L2 entry for ${toHex(at)} makes no sense`).errno;
    }
  }

  #readData(operation: Operation, at: number, length: number, host: number): void {
    const { vector, offset } = operation;
    let target = vector;
    if (length < operation.end - offset) {
      target = this.#slice;
      target.clear();
      target.addSlice(vector, at - offset, length);
    }
    operation.partBegun();
    const slot = this.#image.io.queue(IO.read, host, length, target, operation);
    this.#slotStart[slot] = at - offset;
    this.#slotLength[slot] = length;
  }

  #readUnallocated(operation: Operation, at: number, length: number): void {
    const below = this.#backing;
    const fromBelow = below === undefined ? 0 : Math.max(0, Math.min(length, below.size - at));
    if (fromBelow > 0) below!.read(operation, at, fromBelow);
    if (fromBelow < length) {
      const start = at - operation.offset + fromBelow;
      zeroVector(this.#image.file, operation.vector, start, length - fromBelow);
    }
  }

  *#readCompressed(operation: Operation, at: number, length: number, host: number, size: number): Task {
    const { clusterSize } = this.#image.geometry;
    let errno = 0;
    try {
      const cluster = yield* this.#unpack(host, size);
      const from = at % clusterSize;
      copyToVector(
        this.#image.file,
        operation.vector,
        at - operation.offset,
        cluster.subarray(from, from + length),
      );
    } catch (error) {
      errno = errnoOf(error);
    }
    operation.partDone(errno);
  }

  *#unpack(host: number, size: number): Task<Uint8Array> {
    const { clusterSize } = this.#image.geometry;
    const { tasks, pool, io, path, options } = this.#image;
    for (;;) {
      const known = this.#unpacked.get(host);
      if (known !== undefined) return known;
      const others = this.#unpacking.get(host);
      if (others === undefined) break;
      yield* pause(tasks, others);
    }
    const waiters: Waiter[] = [];
    this.#unpacking.set(host, waiters);
    const generation = this.#generation;
    const memory = pool.take(size);
    try {
      yield* io.read(host, memory, size);
      const cluster = this.#decompress(memory.bytes.subarray(0, size), clusterSize);
      if (cluster === undefined) {
        options.log(`${path}: the compressed cluster at ${toHex(host)} is damaged`);
        throw new HostError(ERRNO.EIO, 'damaged compressed cluster');
      }
      if (generation === this.#generation) this.#keep(host, cluster);
      return cluster;
    } finally {
      pool.give(memory);
      this.#unpacking.delete(host);
      tasks.wakeAll(waiters);
    }
  }

  #keep(host: number, cluster: Uint8Array): void {
    const { clusterSize } = this.#image.geometry;
    const room = Math.max(2, Math.floor(UNPACKED_BYTES / clusterSize));
    for (const oldest of this.#unpacked.keys()) {
      if (this.#unpacked.size < room) break;
      this.#unpacked.delete(oldest);
    }
    this.#unpacked.set(host, cluster);
  }
}
