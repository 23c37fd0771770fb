/** Disks kept as they are: byte n of the disk is byte n of a file or block device. */
import { constants } from 'node:os';
import { IO, type IoOperation, type IoOwner, type IoRing } from '../kvm/io-ring.ts';
import { IoVector } from '../kvm/io-vector.ts';
import {
  DISK_OPERATION,
  StorageError,
  type Disk,
  type DiskCache,
  type DiskClient,
  type DiskRequest,
} from './disk.ts';
import { RawFile, type RawFileOptions } from './raw-file.ts';
import { Zeros } from './zeros.ts';

const { EBADF, EINVAL, EIO, ENOSYS, EOPNOTSUPP, EROFS } = constants.errno;
const SECTOR = 512;

export type RawOptions = RawFileOptions & { readonly cache: DiskCache };

/**
 * Opens a raw disk. The last sector of a file whose size is no multiple of 512 is filled up with zeros, in the file
 * only once the guest writes to it.
 * @throws StorageError
 */
export function openRaw(ring: IoRing, path: string, options: RawOptions): Disk {
  return new RawDisk(ring, new RawFile(path, options), options.cache);
}

/** A request on its way; used again for others. */
type Task = {
  readonly cookie: number;
  request: DiskRequest | undefined;
  /** what the ring does of it at present */
  step: IoOperation;
  /** bytes that are moved, where it takes more than one step */
  done: number;
  /** goes through the page cache although the file is opened past it */
  buffered: boolean;
};

/** @see openRaw */
export class RawDisk implements Disk {
  readonly path: string;
  readonly readOnly: boolean;
  readonly blockSize: number;
  readonly discardGranularity: number;
  readonly #ring: IoRing;
  readonly #file: RawFile;
  readonly #sync: boolean;
  readonly #owner: IoOwner = {
    completed: (cookie, result) => this.#completed(this.#tasks[cookie]!, result),
    batchEnd: () => this.#batchEnd(),
  };
  readonly #tasks: Task[] = [];
  readonly #free: Task[] = [];
  #client: DiskClient | undefined;
  #size: number;
  #inFlight = 0;
  #closed = false;
  /** what the host can do, until it says that it cannot */
  #canPunch: boolean;
  #canZero = true;
  /** done without I/O, to be told with the next commit; the errors beside them */
  #done: Task[] = [];
  #doneErrors: number[] = [];

  /** tasks that the ring has */
  #running = 0;
  /** tasks that need the page cache: they and direct I/O take turns, so that neither sees the other half done */
  #misfits: Task[] = [];
  #misfitsRunning = false;
  /** what has to happen while no I/O is in flight */
  #jobs: (() => void)[] = [];
  /** waiting for a turn */
  #held: Task[] = [];

  readonly #zeros: Zeros;
  readonly #scratch = new IoVector();

  constructor(ring: IoRing, file: RawFile, cache: DiskCache) {
    this.#ring = ring;
    this.#file = file;
    this.#zeros = new Zeros(ring);
    this.#sync = cache !== 'unsafe' && !file.readOnly;
    this.path = file.path;
    this.readOnly = file.readOnly;
    this.blockSize = file.blockSize;
    this.discardGranularity = file.discardGranularity;
    this.#canPunch = file.discards;
    this.#size = file.size;
  }

  get size(): number {
    return this.#size;
  }

  get discards(): boolean {
    return this.#canPunch;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** What the host has at `start`: data, or zeros that take no space; up to `end` at most. */
  extentAt(start: number, end: number): { readonly isData: boolean; readonly length: number } {
    return this.#file.extentAt(start, end);
  }

  attach(client: DiskClient): void {
    this.#client = client;
  }

  submit(request: DiskRequest): void {
    let task = this.#free.pop();
    if (task === undefined) {
      const cookie = this.#tasks.length;
      task = { cookie, request, step: IO.sync, done: 0, buffered: false };
      this.#tasks.push(task);
    }
    task.request = request;
    task.done = 0;
    task.buffered = false;
    this.#inFlight++;
    if (this.#gateClosed) this.#held.push(task);
    else this.#start(task);
  }

  commit(): void {
    if (this.#gateClosed) this.#turn();
    if (this.#tellDone()) this.#client?.batchEnd();
    this.#ring.submit();
  }

  drain(): void {
    while (this.#inFlight > 0) {
      this.commit();
      this.#ring.drain(this.#owner);
    }
  }

  async resize(size: number): Promise<void> {
    if (this.#closed) throw new StorageError(this.path, 'EBADF', 'is closed');
    if (this.readOnly) throw new StorageError(this.path, 'EROFS', 'is read-only');
    if (!Number.isSafeInteger(size) || size <= 0 || size % SECTOR !== 0) {
      throw new StorageError(
        this.path,
        'EINVAL',
        `${size} bytes are no size of a disk: multiples of 512 are`,
      );
    }
    // A write in flight beyond the new end would make the file as large as it was.
    const change = (): void => {
      this.#file.truncate(size);
      this.#size = size;
    };
    if (size < this.#size) await this.#alone(change);
    else change();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.drain();
    this.#closed = true;
    try {
      if (this.#sync) await this.#file.sync();
    } finally {
      this.#file.close();
      this.#zeros.release();
    }
  }

  /** What is wrong with a request, as an errno. */
  #fault({ operation, offset, length, vector }: DiskRequest): number {
    if (this.#closed) return EBADF;
    if (operation === DISK_OPERATION.flush) return 0;
    const size = this.#size;
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length)) return EINVAL;
    if (offset < 0 || length < 0 || offset > size || length > size - offset) return EINVAL;
    if (operation === DISK_OPERATION.read) return vector.byteLength === length ? 0 : EINVAL;
    if (this.readOnly) return EROFS;
    return operation === DISK_OPERATION.write && vector.byteLength !== length ? EINVAL : 0;
  }

  #start(task: Task): void {
    const request = task.request!;
    const { operation, length, unmap } = request;
    const fault = this.#fault(request);
    if (fault !== 0) this.#finishLater(task, fault);
    else if (operation === DISK_OPERATION.flush) {
      if (this.#sync) this.#queue(task, IO.sync, 0, 0);
      else this.#finishLater(task, 0);
    } else if (length === 0) this.#finishLater(task, 0);
    else if (operation === DISK_OPERATION.read) this.#data(task, IO.read);
    else if (operation === DISK_OPERATION.write) this.#data(task, IO.write);
    else if (operation === DISK_OPERATION.discard) {
      if (this.#canPunch) this.#range(task, IO.punch);
      else this.#finishLater(task, 0);
    } else if (unmap && this.#canPunch) this.#range(task, IO.punch);
    else this.#zero(task);
  }

  #data(task: Task, step: IoOperation): void {
    const { offset, length, vector } = task.request!;
    this.#queue(task, step, offset, length, vector);
  }

  #range(task: Task, step: IoOperation): void {
    const { offset, length } = task.request!;
    this.#queue(task, step, offset, length);
  }

  #zero(task: Task): void {
    if (this.#canZero) this.#range(task, IO.zero);
    else this.#writeZeros(task);
  }

  /** The next piece of a range of zeros, written as data. */
  #writeZeros(task: Task): void {
    const { offset, length } = task.request!;
    const count = this.#zeros.fill(this.#scratch, length - task.done);
    this.#queue(task, IO.write, offset + task.done, count, this.#scratch);
  }

  #queue(task: Task, step: IoOperation, offset: number, length: number, vector?: IoVector): void {
    const fd = task.buffered ? this.#file.bufferedFd : this.#file.fd;
    task.step = step;
    this.#running++;
    this.#ring.queue(step, fd, offset, length, vector, this.#owner, task.cookie);
  }

  #completed(task: Task, result: number): void {
    this.#running--;
    if (result < 0) this.#failed(task, -result);
    else this.#succeeded(task, result);
  }

  #succeeded(task: Task, moved: number): void {
    const { operation, length } = task.request!;
    if (task.step !== IO.read && task.step !== IO.write) {
      this.#finish(task, 0);
      return;
    }
    task.done += moved;
    if (task.step === IO.read) {
      if (task.done < length) this.#zeroRest(task);
      this.#finish(task, 0);
    } else if (task.done === length) this.#finish(task, 0);
    else if (operation === DISK_OPERATION.writeZeroes && moved > 0) this.#writeZeros(task);
    else this.#finish(task, EIO);
  }

  /** What lies beyond the end of the file reads as zeros. */
  #zeroRest(task: Task): void {
    const { length, vector } = task.request!;
    const rest = this.#scratch;
    rest.clear();
    rest.addSlice(vector, task.done, length - task.done);
    for (let i = 0; i < rest.count; i++) {
      const at = rest.offsets[i]!;
      this.#ring.bytes(rest.buffers[i]!)?.fill(0, at, at + rest.lengths[i]!);
    }
  }

  #failed(task: Task, error: number): void {
    const unsupported = error === EOPNOTSUPP || error === ENOSYS;
    const { step } = task;
    if (step === IO.punch && unsupported) this.#canPunch = false;
    if (step === IO.zero && unsupported) this.#canZero = false;
    if ((step === IO.punch || step === IO.zero) && (unsupported || error === EINVAL)) {
      // Not this way: the file system has it not, or a block device not with this alignment.
      if (task.request!.operation === DISK_OPERATION.discard) this.#finish(task, 0);
      else if (step === IO.punch) this.#zero(task);
      else this.#writeZeros(task);
    } else if (error === EINVAL && this.#file.direct && !task.buffered && step !== IO.sync) {
      // Direct I/O has rules of alignment, which depend on the file system and on what is below it.
      this.#misfits.push(task);
    } else this.#finish(task, error);
  }

  /** Does something while no I/O is in flight; requests that come meanwhile wait. Rejects with what it throws. */
  #alone(job: () => void): Promise<void> {
    return new Promise((resolve) => {
      this.#jobs.push(() => {
        resolve(
          new Promise((done) => {
            job();
            done();
          }),
        );
      });
      this.commit();
    });
  }

  /** Whether requests have to wait for something that is done without others. */
  get #gateClosed(): boolean {
    return this.#misfitsRunning || this.#misfits.length > 0 || this.#jobs.length > 0;
  }

  /** Goes on with what waits, one kind after the other, each once all I/O before it is over. */
  #turn(): void {
    if (this.#running > 0) return;
    this.#misfitsRunning = false;
    for (const task of this.#misfits.splice(0)) this.#startBuffered(task);
    if (this.#running > 0) {
      this.#misfitsRunning = true;
      return;
    }
    for (const job of this.#jobs.splice(0)) job();
    for (const task of this.#held.splice(0)) this.#start(task);
  }

  #startBuffered(task: Task): void {
    task.buffered = true;
    try {
      if (task.request!.operation === DISK_OPERATION.writeZeroes) this.#writeZeros(task);
      else {
        task.done = 0;
        this.#data(task, task.step);
      }
    } catch {
      // the file cannot be opened once more
      this.#finishLater(task, EINVAL);
    }
  }

  #batchEnd(): void {
    if (this.#gateClosed) this.#turn();
    this.#tellDone();
    this.#client?.batchEnd();
  }

  #finish(task: Task, error: number): void {
    const request = task.request!;
    task.request = undefined;
    this.#free.push(task);
    this.#inFlight--;
    this.#client?.completed(request, error);
  }

  /** Completes with the next commit or batch: never from within `submit`. */
  #finishLater(task: Task, error: number): void {
    this.#done.push(task);
    this.#doneErrors.push(error);
  }

  /** Whether there was something to tell. */
  #tellDone(): boolean {
    if (this.#done.length === 0) return false;
    for (let task = this.#done.pop(); task !== undefined; task = this.#done.pop()) {
      this.#finish(task, this.#doneErrors.pop()!);
    }
    return true;
  }
}
