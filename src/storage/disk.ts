import type { IoVector } from '../kvm/io-vector.ts';

/** What a request asks of a disk. */
export const DISK_OPERATION = {
  read: 0,
  write: 1,
  /** what was written before is on stable storage when it completes, as far as the cache mode promises that */
  flush: 2,
  /** the contents may go; they read as zeros afterwards or stay as they are */
  discard: 3,
  /** the range reads as zeros afterwards */
  writeZeroes: 4,
} as const;
export type DiskOperation = (typeof DISK_OPERATION)[keyof typeof DISK_OPERATION];

/** One request. The caller owns it again once it has completed, and may use it for the next one. */
export type DiskRequest = {
  operation: DiskOperation;
  /** where on the disk, in bytes */
  offset: number;
  /** in bytes; 0 for a flush */
  length: number;
  /** memory of a read or write, as many bytes as `length` */
  readonly vector: IoVector;
  /** writeZeroes: the range may become a hole instead of allocated zeros */
  unmap: boolean;
};

/** Who hears of completed requests. Neither method is ever called from within {@link Disk.submit}. */
export type DiskClient = {
  /** @param error 0, or the host's errno as a positive number (EIO, ENOSPC, EINVAL for a range outside the disk) */
  completed(request: DiskRequest, error: number): void;
  /** A batch of completions is over: the moment to tell the guest of all of them at once. */
  batchEnd(): void;
};

/**
 * What `flush` and completed writes mean.
 * - `writeback`: the host's page cache; a flush is an fdatasync
 * - `none`: no page cache (O_DIRECT); a flush is an fdatasync
 * - `unsafe`: the page cache, and a flush does nothing: for throw-away disks
 */
export type DiskCache = 'writeback' | 'none' | 'unsafe';

/**
 * A virtual disk, whatever format it is kept in. Requests may complete in any order; a request that overlaps another
 * one in flight has no order to it, as on hardware. All methods are called on the event loop.
 */
export type Disk = {
  readonly path: string;
  /** capacity in bytes, a multiple of 512 */
  readonly size: number;
  readonly readOnly: boolean;
  /** smallest request that needs no read-modify-write on the host, in bytes; 512 or 4096 */
  readonly blockSize: number;
  /** whether discard and writeZeroes give space back to the host */
  readonly discards: boolean;
  /** in bytes; what the guest is told to align discards to */
  readonly discardGranularity: number;
  /** Requests that are submitted and have not completed. */
  readonly inFlight: number;
  /** Sets who is told of completions; one at a time. */
  attach(client: DiskClient): void;
  /** Queues a request. A bad range completes with EINVAL, a write to a read-only disk with EROFS. */
  submit(request: DiskRequest): void;
  /** Hands everything queued to the host in one go. What is done at once completes from within this call. */
  commit(): void;
  /** Blocks until nothing is in flight; completions are told from within. */
  drain(): void;
  /** Grows or shrinks. @throws StorageError with the old size intact */
  resize(size: number): Promise<void>;
  /** Ends what is in flight, syncs (unless `unsafe` or read-only), and frees all. May be called again. */
  close(): Promise<void>;
};

/** A disk image cannot be opened or changed: which one, why, and what to do about it. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly code: string;
  readonly path: string;
  /** what to do about it, where there is something */
  readonly hint?: string;

  constructor(path: string, code: string, message: string, hint?: string) {
    super(`${path}: ${message}`);
    this.path = path;
    this.code = code;
    if (hint !== undefined) this.hint = hint;
  }
}
