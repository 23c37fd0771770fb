import { IO, type IoOperation, type IoOwner } from '../../kvm/io-ring.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import type { HostFile } from './host-file.ts';
import { pause, type Task, type Tasks, type Waiter } from './task.ts';

/** A request to the host failed, or what is on it makes no sense; what the guest is told of it. */
export class HostError extends Error {
  override readonly name = 'HostError';
  readonly errno: number;

  constructor(errno: number, message = `errno ${errno}`) {
    super(message);
    this.errno = errno;
  }
}

/** Linux's numbers, as {@link IoOwner.completed} gives them. */
export const ERRNO = { EIO: 5, EINVAL: 22, ENOSPC: 28, EROFS: 30 } as const;

export const errnoOf = (error: unknown): number => (error instanceof HostError ? error.errno : ERRNO.EIO);

/** Who is told of one completion. */
export type IoSink = { ioDone(slot: number, result: number): void };

/** Memory that I/O can use: a registered buffer, or a part of one. */
export type IoBuffer = { readonly bytes: Uint8Array; readonly buffer: number; readonly offset: number };

/**
 * I/O on the image's file for requests (as sinks, without allocation) and for tasks. Counts requests by epoch: what
 * began before a certain moment, so that a freed cluster is not used again while somebody still reads or writes it.
 */
export class FileIo implements IoOwner {
  readonly file: HostFile;
  readonly #tasks: Tasks;
  /** after each batch of completions */
  readonly #onBatch: () => void;
  readonly #sinks: (IoSink | undefined)[] = [];
  readonly #free: number[] = [];
  readonly #slotEpoch: number[] = [];
  readonly #slotChanges: boolean[] = [];
  /** Requests that changed the file and are complete: what a sync begun now makes safe. */
  changes = 0;
  readonly #scratch = new IoVector();
  #inFlight = 0;
  #queued = 0;
  #epoch: 0 | 1 = 0;
  readonly #inEpoch: [number, number] = [0, 0];
  readonly #epochWaiters: Waiter[] = [];

  constructor(file: HostFile, tasks: Tasks, onBatch: () => void) {
    this.file = file;
    this.#tasks = tasks;
    this.#onBatch = onBatch;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** @returns the slot that `sink` is told of */
  queue(
    operation: IoOperation,
    offset: number,
    length: number,
    vector: IoVector | undefined,
    sink: IoSink,
  ): number {
    const slot = this.#free.pop() ?? this.#sinks.length;
    this.#sinks[slot] = sink;
    this.#slotEpoch[slot] = this.#epoch;
    this.#slotChanges[slot] = operation === IO.write || operation === IO.zero || operation === IO.allocate;
    this.#inEpoch[this.#epoch]++;
    this.#inFlight++;
    this.#queued++;
    this.file.queue(operation, offset, length, vector, this, slot);
    return slot;
  }

  submit(): void {
    if (this.#queued === 0) return;
    this.#queued = 0;
    this.file.submit();
  }

  completed(slot: number, result: number): void {
    const sink = this.#sinks[slot];
    if (sink === undefined) return;
    this.#sinks[slot] = undefined;
    this.#free.push(slot);
    this.#inFlight--;
    if (this.#slotChanges[slot] === true) this.changes++;
    const epoch = this.#slotEpoch[slot] === 1 ? 1 : 0;
    if (--this.#inEpoch[epoch] === 0 && epoch !== this.#epoch) this.#tasks.wakeAll(this.#epochWaiters);
    sink.ioDone(slot, result);
  }

  batchEnd(): void {
    this.#onBatch();
  }

  /** Waits until all requests are over that are in flight now. One task at a time may wait. */
  *quiesce(): Task {
    const epoch = this.#epoch;
    this.#epoch = epoch === 0 ? 1 : 0;
    if (this.#inEpoch[epoch] > 0) yield* pause(this.#tasks, this.#epochWaiters);
  }

  join(): Join {
    return new Join(this.#tasks);
  }

  queueBytes(
    operation: typeof IO.read | typeof IO.write,
    offset: number,
    memory: IoBuffer,
    length: number,
    join: Join,
  ): void {
    this.#scratch.clear();
    this.#scratch.add(memory.buffer, memory.offset, length);
    join.expect(length, operation === IO.write);
    this.queue(operation, offset, length, this.#scratch, join);
  }

  /** Reads; what is behind the end of the file comes as zeros. @throws HostError */
  *read(offset: number, memory: IoBuffer, length: number): Task {
    const join = this.join();
    this.queueBytes(IO.read, offset, memory, length, join);
    const result = yield* join.wait();
    if (result < length) memory.bytes.fill(0, result, length);
  }

  /** @throws HostError */
  *write(offset: number, memory: IoBuffer, length: number): Task {
    const join = this.join();
    this.queueBytes(IO.write, offset, memory, length, join);
    yield* join.wait();
  }

  /** @throws HostError */
  *sync(): Task {
    const join = this.join();
    join.expect(0, false);
    this.queue(IO.sync, 0, 0, undefined, join);
    yield* join.wait();
  }

  *writeVector(offset: number, vector: IoVector): Task {
    const join = this.join();
    join.expect(vector.byteLength, true);
    this.queue(IO.write, offset, vector.byteLength, vector, join);
    yield* join.wait();
  }
}

/** Requests that one task waits for together. */
export class Join implements IoSink {
  readonly #tasks: Tasks;
  #pending = 0;
  #errno = 0;
  #moved = 0;
  #toMove = 0;
  #exact = false;
  readonly #waiters: Waiter[] = [];

  constructor(tasks: Tasks) {
    this.#tasks = tasks;
  }

  /** Called before each request. @param exact whether to move less is an error: of writes */
  expect(length: number, exact: boolean): void {
    this.#pending++;
    this.#toMove += length;
    this.#exact = exact;
  }

  ioDone(_slot: number, result: number): void {
    if (result < 0) this.#errno ||= -result;
    else this.#moved += result;
    if (--this.#pending === 0) this.#tasks.wakeAll(this.#waiters);
  }

  /** @returns bytes moved in all @throws HostError with the first errno */
  *wait(): Task<number> {
    if (this.#pending > 0) yield* pause(this.#tasks, this.#waiters);
    if (this.#errno !== 0) throw new HostError(this.#errno);
    if (this.#exact && this.#moved < this.#toMove) throw new HostError(ERRNO.EIO, 'the host wrote less');
    return this.#moved;
  }
}
