/**
 * Disk I/O in batches, straight between files and registered memory: io_uring where the kernel allows it, threads
 * elsewhere. Requests and completions pass through one shared area of memory, so a batch costs one native call and
 * no request costs an allocation.
 */
import { markAsUntransferable } from 'node:worker_threads';
import { KvmError } from './errors.ts';
import { Backlog } from './io-backlog.ts';
import type { IoVector } from './io-vector.ts';
import { native, type IoEngine, type NativeIoRing } from './native.ts';

export type { IoEngine };

/** What a request does. The numbers are the addon's too (native/io_request.h). */
export const IO = {
  read: 0,
  write: 1,
  /** fdatasync */
  sync: 2,
  /** a hole in the file; its size stays */
  punch: 3,
  /** zeros that need not be written; the file's size stays */
  zero: 4,
  /** space for the range; the file's size stays */
  allocate: 5,
  /** a write to wherever the file ends then; its offset says nothing */
  append: 6,
} as const;
export type IoOperation = (typeof IO)[keyof typeof IO];

/** Who hears of completed requests. What the methods throw becomes an uncaught exception of the process. */
export type IoOwner = {
  /**
   * @param cookie as it was given to {@link IoRing.queue}
   * @param result bytes moved (less than asked for only at the end of the file), 0 for other operations, or a
   * negative errno
   */
  completed(cookie: number, result: number): void;
  /** Called once after each batch that had completions of this owner. */
  batchEnd(): void;
};

export type IoRingOptions = {
  /** default: $TSVM_IO_ENGINE, else io_uring where it works */
  readonly engine?: IoEngine;
  /** requests that the host has at a time, 1 to 4096; more wait in here. Default 512 */
  readonly entries?: number;
};

export const DEFAULT_ENTRIES = 512;
/** Pieces of all vectors of one native call, and so the most that one request may have. */
const PIECES = 8192;
/**
 * Bytes of one native call, but for a single request of more. What the page cache answers is copied within the call:
 * nothing else happens meanwhile, and nobody hears of what is complete before its end.
 */
const SLICE = 4 * 1024 * 1024;
/** Batches that follow one another from what completes at once, before the event loop has its turn again. */
const ROUNDS = 16;

// The shared area, as in native/io_ring.h. Sizes in bytes:
// request: double offset, double length, int32 slot, operation, fd, pieces
const REQUEST = 32;
// piece: double offset, int32 buffer, uint32 length
const PIECE = 16;
// completion: double result, int32 slot, int32 unused
const COMPLETION = 16;

type OwnerState = { readonly owner: IoOwner; inFlight: number; touched: boolean };

function engineOf(options: IoRingOptions): IoEngine | undefined {
  const engine = options.engine ?? process.env['TSVM_IO_ENGINE'];
  if (engine === undefined || engine === '') return undefined;
  if (engine === 'io_uring' || engine === 'threads') return engine;
  throw new RangeError(`TSVM_IO_ENGINE must be io_uring or threads, not ${engine}`);
}

/** The owner's bug must neither hit whoever submitted, nor keep other owners' completions back. */
function reportError(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

/** A ring stays alive, and the event loop with it, while requests are in flight; idle it keeps neither. */
export class IoRing {
  readonly engine: IoEngine;
  readonly #native: NativeIoRing;
  readonly #area64: Float64Array;
  readonly #area32: Int32Array;
  /** where pieces and completions begin in the area, in 64-bit units */
  readonly #pieces64: number;
  readonly #completions64: number;

  readonly #freeSlots: Int32Array;
  #freeCount: number;
  readonly #owners: (OwnerState | undefined)[];
  readonly #cookies: Float64Array;
  /** requests and pieces that lie in the area and were not handed over yet */
  #written = 0;
  #writtenPieces = 0;
  #writtenBytes = 0;
  readonly #backlog = new Backlog<OwnerState>();
  /** by the number of the buffer; numbers are not used again for long, so an array would grow with every buffer */
  readonly #memory = new Map<number, Uint8Array>();
  /** buffers to be unregistered when the requests that were queued before have been handed over */
  #leaving: number[] = [];

  readonly #states = new WeakMap<IoOwner, OwnerState>();
  #lastState: OwnerState | undefined;
  #inFlight = 0;
  /** the completions in the area that were not delivered yet */
  #next = 0;
  #count = 0;
  #touched: OwnerState[] = [];
  /** how deep we are in callbacks of owners */
  #depth = 0;
  #scheduled = false;
  #closed = false;

  /** @throws KvmError where the engine that is asked for does not work on this host */
  constructor(options: IoRingOptions = {}) {
    const entries = options.entries ?? DEFAULT_ENTRIES;
    this.#native = new (native().IoRing)(engineOf(options), entries, PIECES);
    this.engine = this.#native.engine;
    const area = this.#native.area();
    this.#area64 = new Float64Array(area);
    this.#area32 = new Int32Array(area);
    this.#pieces64 = (entries * REQUEST) / 8;
    this.#completions64 = this.#pieces64 + (PIECES * PIECE) / 8;
    this.#freeSlots = Int32Array.from({ length: entries }, (_, i) => entries - 1 - i);
    this.#freeCount = entries;
    this.#owners = Array.from({ length: entries }, () => undefined);
    this.#cookies = new Float64Array(entries);
    this.#native.onCompletions = (count) => {
      this.#deliver(count);
      this.#goOn();
    };
  }

  /** Requests that were queued and are not completed. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /**
   * Numbers a buffer for {@link IoVector}. It is held until it is unregistered and requests that use it are over. From
   * now on it cannot be transferred to another thread.
   * @throws RangeError where 4096 buffers are registered already
   */
  register(bytes: Uint8Array | ArrayBuffer): number {
    const buffer = bytes instanceof Uint8Array ? bytes.buffer : bytes;
    if (!(buffer instanceof ArrayBuffer)) throw new TypeError('only an ArrayBuffer can be registered');
    const offset = bytes instanceof Uint8Array ? bytes.byteOffset : 0;
    const number = this.#native.register(buffer, offset, bytes.byteLength);
    // Its memory would leave with it, while the kernel writes there.
    markAsUntransferable(buffer);
    this.#memory.set(number, bytes instanceof Uint8Array ? bytes : new Uint8Array(bytes));
    return number;
  }

  /** The memory of a registered buffer, for what is computed instead of read. Undefined where there is none. */
  bytes(buffer: number): Uint8Array | undefined {
    return this.#memory.get(buffer);
  }

  /** Requests that were queued before may still use the buffer; later ones end with EFAULT. */
  unregister(buffer: number): void {
    if (this.#closed) return;
    this.#memory.delete(buffer);
    if (this.#written === 0 && this.#backlog.count === 0) this.#native.unregister(buffer);
    else this.#leaving.push(buffer);
  }

  /**
   * Queues a request; never calls back from within. A request that makes no sense (a buffer that is not registered,
   * a range outside of it, a negative offset) completes with EFAULT or EINVAL.
   * @param fd a regular file or block device, without O_NONBLOCK
   * @param offset where in the file, in bytes
   * @param length in bytes; of reads and writes the vector tells it
   * @param vector memory of a read or write; may be used again at once. At most 8192 pieces
   * @param cookie any number
   */
  queue(
    operation: IoOperation,
    fd: number,
    offset: number,
    length: number,
    vector: IoVector | undefined,
    owner: IoOwner,
    cookie: number,
  ): void {
    if (this.#closed) throw new KvmError(9, 'closed', 'I/O ring');
    const last = this.#lastState;
    const state = last?.owner === owner ? last : this.#stateOf(owner);
    state.inFlight++;
    this.#inFlight++;
    if (this.#backlog.count === 0 && this.#hasRoom(vector)) {
      this.#write(operation, fd, offset, length, vector, state, cookie);
      return;
    }
    const waiting = this.#backlog.push();
    waiting.operation = operation;
    waiting.fd = fd;
    waiting.offset = offset;
    waiting.length = length;
    if (vector !== undefined) waiting.vector.addSlice(vector, 0, vector.byteLength);
    waiting.owner = state;
    waiting.cookie = cookie;
  }

  /**
   * Hands everything that is queued to the host. What is complete at once is delivered from within. Within a callback
   * this returns at once: what callbacks queue goes out when the batch is over.
   */
  submit(): void {
    if (this.#depth === 0) this.#goOn();
  }

  /** Delivers what is complete, without a system call where nothing is. Returns how many that were. */
  reap(): number {
    if (this.#closed || this.#depth > 0) return 0;
    const count = this.#native.reap();
    if (count === 0) return 0;
    this.#deliver(count);
    this.#goOn();
    return count;
  }

  /**
   * Submits what is queued and blocks until nothing, or nothing of this owner, is in flight. Completions are delivered
   * from within, other owners' too. May be called within a callback.
   */
  drain(owner?: IoOwner): void {
    const state = owner === undefined ? undefined : this.#states.get(owner);
    if (owner !== undefined && state === undefined) return;
    this.#drain(state);
    if (this.#depth === 0) this.#goOn();
  }

  /** Drains, and frees all; nothing can be queued any more, also not by callbacks from within. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#drain(undefined);
    this.#native.close();
  }

  #stateOf(owner: IoOwner): OwnerState {
    let state = this.#states.get(owner);
    if (state === undefined) {
      state = { owner, inFlight: 0, touched: false };
      this.#states.set(owner, state);
    }
    this.#lastState = state;
    return state;
  }

  #hasRoom(vector: IoVector | undefined): boolean {
    if (this.#freeCount === 0 || this.#writtenBytes >= SLICE) return false;
    // One that has more pieces than there is room at all is for the addon to refuse.
    return vector === undefined || this.#writtenPieces === 0 || vector.count <= PIECES - this.#writtenPieces;
  }

  #write(
    operation: number,
    fd: number,
    offset: number,
    length: number,
    vector: IoVector | undefined,
    state: OwnerState,
    cookie: number,
  ): void {
    const slot = this.#freeSlots[--this.#freeCount]!;
    this.#owners[slot] = state;
    this.#cookies[slot] = cookie;
    const area64 = this.#area64;
    const area32 = this.#area32;
    const at = (this.#written++ * REQUEST) / 8;
    area64[at] = offset;
    area64[at + 1] = length;
    area32[2 * at + 4] = slot;
    area32[2 * at + 5] = operation;
    area32[2 * at + 6] = fd;
    if (vector === undefined) {
      area32[2 * at + 7] = 0;
      return;
    }
    const count = vector.count;
    area32[2 * at + 7] = count;
    if (count > PIECES) return;
    const { buffers, offsets, lengths } = vector;
    let piece = this.#pieces64 + (this.#writtenPieces * PIECE) / 8;
    for (let i = 0; i < count; i++, piece += PIECE / 8) {
      area64[piece] = offsets[i]!;
      area32[2 * piece + 2] = buffers[i]!;
      area32[2 * piece + 3] = lengths[i]!;
    }
    this.#writtenPieces += count;
    this.#writtenBytes += vector.byteLength;
  }

  /** From the backlog to the area, as far as there is room. */
  #refill(): void {
    for (let waiting = this.#backlog.first(); waiting !== undefined; waiting = this.#backlog.first()) {
      const { operation, fd, offset, length, vector, owner, cookie } = waiting;
      if (!this.#hasRoom(vector)) return;
      this.#write(operation, fd, offset, length, vector, owner!, cookie);
      this.#backlog.shift();
    }
  }

  /** Hands over what lies in the area; returns how many completions are there. */
  #handOver(): number {
    const count = this.#written;
    this.#written = 0;
    this.#writtenPieces = 0;
    this.#writtenBytes = 0;
    const completions = this.#native.submit(count);
    if (this.#leaving.length > 0 && this.#backlog.count === 0) {
      for (const buffer of this.#leaving.splice(0)) this.#native.unregister(buffer);
    }
    return completions;
  }

  /** Hands over what is queued, and what callbacks queue then. */
  #goOn(): void {
    for (let round = 0; round < ROUNDS; round++) {
      this.#refill();
      if (this.#written === 0) return;
      this.#deliver(this.#handOver());
    }
    this.#refill();
    if (this.#written === 0 || this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#goOn();
    });
  }

  #drain(state: OwnerState | undefined): void {
    // Within a callback the rest of its batch lies in the area still.
    if (this.#next < this.#count) this.#deliverRest();
    while ((state === undefined ? this.#inFlight : state.inFlight) > 0) {
      this.#refill();
      this.#deliver(this.#written > 0 ? this.#handOver() : this.#native.wait());
    }
  }

  #deliver(count: number): void {
    if (count === 0) return;
    this.#next = 0;
    this.#count = count;
    this.#deliverRest();
  }

  /** Cursor and batch are the ring's, not this call's: a drain within a callback goes on with the same batch. */
  #deliverRest(): void {
    const completions = this.#completions64;
    this.#depth++;
    while (this.#next < this.#count) {
      const at = completions + (this.#next++ * COMPLETION) / 8;
      const result = this.#area64[at]!;
      const slot = this.#area32[2 * at + 2]!;
      const state = this.#owners[slot]!;
      this.#owners[slot] = undefined;
      this.#freeSlots[this.#freeCount++] = slot;
      state.inFlight--;
      this.#inFlight--;
      try {
        state.owner.completed(this.#cookies[slot]!, result);
      } catch (error) {
        reportError(error);
      }
      if (!state.touched) {
        state.touched = true;
        this.#touched.push(state);
      }
    }
    for (let state = this.#touched.pop(); state !== undefined; state = this.#touched.pop()) {
      state.touched = false;
      try {
        state.owner.batchEnd();
      } catch (error) {
        reportError(error);
      }
    }
    this.#depth--;
  }
}
