/**
 * Locks that keep a file from being written to by two, or under somebody who reads it. The bytes are those of QEMU
 * (its manual, "Disk image file locking"), so that its programs and ours respect each other: whoever has a file open
 * holds a shared lock on one byte for each thing that it does, and on one for each thing that it does not stand from
 * others; what is in the way is then found by looking for locks on the opposite bytes.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { KvmError } from '../kvm/errors.ts';
import { findLock, lockShared, unlock, type FoundLock } from '../kvm/host-file.ts';
import { StorageError } from './disk.ts';
import { holderOf } from './lock-holder.ts';
import { openError } from './open-error.ts';

/** Many may read a file, or one may write to it. */
export type FileUse = 'read' | 'write';

const DOES = 100;
const REFUSES = 200;
const END = 300;

/** numbers of QEMU's permissions */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

const DONE: Readonly<Record<FileUse, readonly number[]>> = {
  read: [CONSISTENT_READ],
  write: [CONSISTENT_READ, WRITE, RESIZE],
};
const REFUSED = [WRITE, RESIZE] as const;

/** Two that begin at the same time see each other, and both step back: they try again, at different times. */
const ATTEMPTS = 6;
const LONGEST_WAIT_MS = 20;
/** A process that was killed while it synced is gone before its locks are: with nobody to name, it is waited longer. */
const UNNAMED_WAIT_MS = 2000;

/**
 * Locks an open file for as long as its descriptor is open, and any copy of it. On a file system without locks it goes
 * without, and says so.
 * @throws StorageError (EBUSY) that names who is in the way
 */
export function lockOpenFile(fd: number, path: string, use: FileUse, log?: (line: string) => void): void {
  const start = performance.now();
  try {
    for (let attempt = 1; ; attempt++) {
      const obstacle = tryToLock(fd, use);
      if (obstacle === undefined) return;
      unlock(fd, DOES, END - DOES);
      if (attempt >= ATTEMPTS) {
        const holder = holderOf(fd, obstacle);
        if (holder !== undefined || performance.now() - start > UNNAMED_WAIT_MS)
          throw busy(fd, path, use, holder ?? 'a process that this user may not look into');
      }
      sleep(1 + Math.random() * LONGEST_WAIT_MS);
    }
  } catch (error) {
    if (!(error instanceof KvmError)) throw error;
    log?.(`${path}: cannot be locked (${error.code}): nothing keeps others from writing to it`);
  }
}

/** Files that a tool keeps locked while it opens and closes them as it needs to. */
export class FileLocks {
  readonly #fds: number[] = [];

  /** @throws StorageError; nothing is locked then */
  constructor(files: readonly (readonly [path: string, use: FileUse])[]) {
    try {
      for (const [path, use] of files) {
        const fd = openToLock(path);
        this.#fds.push(fd);
        lockOpenFile(fd, path, use);
      }
    } catch (error) {
      this.release();
      throw error;
    }
  }

  /** May be called again. */
  release(): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
  }
}

/** Does something while files are locked. @throws StorageError where they are in use; then nothing is done */
export async function whileLocked<T>(
  files: readonly (readonly [path: string, use: FileUse])[],
  work: () => Promise<T> | T,
): Promise<T> {
  const locks = new FileLocks(files);
  try {
    return await work();
  } finally {
    locks.release();
  }
}

/** @returns what is in the way */
function tryToLock(fd: number, use: FileUse): FoundLock | undefined {
  const done = DONE[use].map((permission) => DOES + permission);
  const refused = REFUSED.map((permission) => REFUSES + permission);
  for (const byte of [...done, ...refused]) {
    if (!lockShared(fd, byte, 1)) return findLock(fd, byte, 1) ?? { start: byte, pid: -1 };
  }
  const opposite = [
    ...DONE[use].map((permission) => REFUSES + permission),
    ...REFUSED.map((permission) => DOES + permission),
  ];
  for (const byte of opposite) {
    const found = findLock(fd, byte, 1);
    if (found !== undefined) return found;
  }
  return undefined;
}

function busy(fd: number, path: string, use: FileUse, holder: string): StorageError {
  const isWritten = findLock(fd, DOES + WRITE, 1) !== undefined;
  const does = isWritten ? 'is writing to it' : 'is reading it';
  return new StorageError(
    path,
    'EBUSY',
    `cannot be opened to be ${use === 'write' ? 'written to' : 'read'}: ${holder} ${does}`,
    isWritten
      ? 'while one writes to an image, nobody else may use it: end that process first'
      : 'many may read an image, but nobody write to it meanwhile: end that process first, or write to an overlay ' +
          '(`tsvm disk create --backing`)',
  );
}

function openToLock(path: string): number {
  try {
    // Not to hang on a FIFO; regular files take no notice of O_NONBLOCK.
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw openError(path, error);
  }
}

/** Blocks: what opens a file does so too. */
function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
