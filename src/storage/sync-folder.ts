import { closeSync, fsyncSync, openSync } from 'node:fs';

/** Brings the names in a folder to stable storage: a new name is there only then. */
export function syncFolder(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
