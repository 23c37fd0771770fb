/** What Node.js cannot ask of a file that is open. All of these throw KvmError where the host cannot. */
import { native } from './native.ts';

/** A lock of somebody else. */
export type FoundLock = {
  /** first byte of it */
  readonly start: number;
  /** -1 for a lock of an open file description, which belongs to no process */
  readonly pid: number;
};

/**
 * Takes a shared lock on bytes of a file, for its open file description (fcntl(2), F_OFD_SETLK): it ends when that is
 * closed, whatever else the process does with the same file.
 * @returns false where somebody has an exclusive lock there
 */
export function lockShared(fd: number, start: number, length: number): boolean {
  return native().hostFile.lockShared(fd, start, length);
}

export function unlock(fd: number, start: number, length: number): void {
  native().hostFile.unlock(fd, start, length);
}

/** Some lock, shared or exclusive, that another open file description or process has there. */
export function findLock(fd: number, start: number, length: number): FoundLock | undefined {
  return native().hostFile.findLock(fd, start, length);
}

/** Where the data begins that is at `offset` or behind it; undefined where only a hole is left. */
export function nextData(fd: number, offset: number): number | undefined {
  const at = native().hostFile.seek(fd, offset, false);
  return at < 0 ? undefined : at;
}

/** Where the hole begins that is at `offset` or behind it; the end of the file counts as one. */
export function nextHole(fd: number, offset: number): number | undefined {
  const at = native().hostFile.seek(fd, offset, true);
  return at < 0 ? undefined : at;
}

/** Gives a file that was made without a name (O_TMPFILE) one, which must be free. */
export function linkFile(fd: number, path: string): void {
  native().hostFile.link(fd, path);
}
