/**
 * VMs that are to be gone when the process that has made them is: that one holds a lock on a file of theirs, which the
 * kernel takes from it however it ends.
 */
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { findLock, lockShared } from '../../kvm/host-file.ts';

const OWNER_LOCK = 'owner.lock';

/** Makes this process the owner of a VM, until what it returns is closed, or it ends. */
export function ownFolder(folder: string): Disposable {
  const fd = openSync(join(folder, OWNER_LOCK), 'a+', 0o600);
  lockShared(fd, 0, 1);
  let open = true;
  return {
    [Symbol.dispose]: () => {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** Whether a VM had an owner that is gone. */
export function isAbandoned(folder: string): boolean {
  let fd: number;
  try {
    fd = openSync(join(folder, OWNER_LOCK), 'r');
  } catch {
    return false;
  }
  try {
    return findLock(fd, 0, 1) === undefined;
  } finally {
    closeSync(fd);
  }
}

/** Begins the names of folders that are being made or removed. */
export const HIDDEN = '.';

/** A folder of this process that is no VM. */
export function hiddenFolder(parent: string, what: 'new' | 'old', name: string): string {
  return join(parent, `${HIDDEN}${what}-${name}-${randomBytes(4).toString('hex')}-${process.pid}`);
}
