/**
 * Advisory locks between tsvm's processes: one file each, which is never removed, and is held for as long as the
 * process has it open. However a process ends, the kernel takes the lock away.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { findLock, lockShared, unlock } from '../kvm/host-file.ts';
import { privateFolder, type ManagerPaths } from './paths.ts';

/** milliseconds */
const SHORTEST_WAIT = 2;
const LONGEST_WAIT = 25;

export type LockOptions = {
  /** called once where somebody else has the lock, before it is waited for */
  readonly onWait?: () => void;
  /** ends the wait; the work itself is not ended by it */
  readonly signal?: AbortSignal;
};

/** What a lock may be called: one file name, in lower case, which no other name is written as. */
const NAME = /^[a-z0-9][a-z0-9._-]{0,200}$/;

/**
 * Does something while no other process, and nobody else in this one, has the lock of this name. Who waits gets it in
 * no order. A lock within another one has to be taken in the same order everywhere.
 * @throws RangeError where the name cannot be one, KvmError where the file system has no locks
 */
export async function withLock<T>(
  paths: Pick<ManagerPaths, 'locks'>,
  name: string,
  work: () => Promise<T> | T,
  options: LockOptions = {},
): Promise<T> {
  if (!NAME.test(name)) throw new RangeError(`not the name of a lock: ${name}`);
  const file = join(privateFolder(paths.locks), `${name}.lock`);
  const fd = openSync(file, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    await acquire(fd, options);
    return await work();
  } finally {
    closeSync(fd);
  }
}

/**
 * The addon has shared locks only, as disk images need: each takes one, looks whether anybody else has one too, and
 * then steps back. Two that begin at the same moment both step back, and come again at different times.
 */
async function acquire(fd: number, { onWait, signal }: LockOptions): Promise<void> {
  for (let told = false; ;) {
    signal?.throwIfAborted();
    if (tryLock(fd)) return;
    if (!told) onWait?.();
    told = true;
    const wait = SHORTEST_WAIT + Math.random() * (LONGEST_WAIT - SHORTEST_WAIT);
    await delay(wait, undefined, signal === undefined ? {} : { signal });
  }
}

function tryLock(fd: number): boolean {
  // Whoever only waits is not to be in the way of one that begins.
  if (findLock(fd, 0, 1) !== undefined) return false;
  if (!lockShared(fd, 0, 1)) return false;
  if (findLock(fd, 0, 1) === undefined) return true;
  unlock(fd, 0, 1);
  return false;
}
