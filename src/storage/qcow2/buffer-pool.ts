import type { IoBuffer } from './file-io.ts';
import type { HostFile } from './host-file.ts';
import { pause, type Task, type Tasks, type Waiter } from './task.ts';

const SLAB = 2 ** 20;
const SMALLEST = 512;
/** Zeros to write from, again and again. */
const ZEROS = 65536;

/**
 * Memory for I/O, registered with the ring in large pieces and used again. Copying writes ask for theirs within a
 * budget, so that a guest's queue depth times its cluster size does not decide how much memory this takes.
 */
export class BufferPool {
  readonly #file: HostFile;
  readonly #tasks: Tasks;
  readonly #budget: number;
  #spent = 0;
  readonly #waiters: Waiter[] = [];
  /** by the logarithm of the size */
  readonly #free = new Map<number, IoBuffer[]>();
  readonly #registered: number[] = [];
  readonly zeros: IoBuffer;

  constructor(file: HostFile, tasks: Tasks, budget: number) {
    this.#file = file;
    this.#tasks = tasks;
    this.#budget = budget;
    this.zeros = this.#register(ZEROS);
  }

  /** At least `size` bytes, with whatever is in them. */
  take(size: number): IoBuffer {
    const length = Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(size)));
    const free = this.#freeOf(length);
    const buffer = free.pop();
    if (buffer !== undefined) return buffer;
    if (length >= SLAB) return this.#register(length);
    const slab = this.#register(SLAB);
    for (let at = SLAB - length; at > 0; at -= length) free.push(partOf(slab, at, length));
    return partOf(slab, 0, length);
  }

  give(buffer: IoBuffer): void {
    this.#freeOf(buffer.bytes.length).push(buffer);
  }

  /** As {@link take}, once the budget allows it. Whoever holds one must not ask for another. */
  *acquire(size: number): Task<IoBuffer> {
    while (this.#spent > 0 && this.#spent + size > this.#budget) yield* pause(this.#tasks, this.#waiters);
    const buffer = this.take(size);
    this.#spent += buffer.bytes.length;
    return buffer;
  }

  release(buffer: IoBuffer): void {
    this.#spent -= buffer.bytes.length;
    this.give(buffer);
    this.#tasks.wakeAll(this.#waiters);
  }

  close(): void {
    for (const buffer of this.#registered.splice(0)) this.#file.unregister(buffer);
    this.#free.clear();
  }

  #freeOf(length: number): IoBuffer[] {
    let free = this.#free.get(length);
    if (free === undefined) {
      free = [];
      this.#free.set(length, free);
    }
    return free;
  }

  #register(length: number): IoBuffer {
    const bytes = new Uint8Array(new ArrayBuffer(length));
    const buffer = this.#file.register(bytes);
    this.#registered.push(buffer);
    return { bytes, buffer, offset: 0 };
  }
}

function partOf({ bytes, buffer, offset }: IoBuffer, at: number, length: number): IoBuffer {
  return { bytes: bytes.subarray(at, at + length), buffer, offset: offset + at };
}
