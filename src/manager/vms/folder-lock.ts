import { closeSync, openSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StorageError } from '../../storage/disk.ts';
import { FileLocks } from '../../storage/file-lock.ts';
import { VmStoreError } from './store.ts';

const LOCK = 'start.lock';
/** Starts and snapshots are done in this time, but for those of large memories on slow disks. In milliseconds. */
const WAIT_LIMIT = 300_000;
const POLL_MS = 25;

/**
 * Does something to a VM's folder while nobody else starts the VM, or changes its snapshots.
 * @throws VmStoreError (EBUSY) where another command is at it for minutes
 */
export async function whileVmLocked<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const path = join(folder, LOCK);
  closeSync(openSync(path, 'a', 0o600));
  const lock = await take(path);
  try {
    return await work();
  } finally {
    lock.release();
  }
}

async function take(path: string): Promise<FileLocks> {
  const end = performance.now() + WAIT_LIMIT;
  for (;;) {
    try {
      return new FileLocks([[path, 'write']]);
    } catch (error) {
      if (!(error instanceof StorageError) || error.code !== 'EBUSY') throw error;
      if (performance.now() > end)
        throw new VmStoreError(
          'EBUSY',
          `another command is at work on the VM '${basename(join(path, '..'))}'`,
        );
    }
    await sleep(POLL_MS);
  }
}
