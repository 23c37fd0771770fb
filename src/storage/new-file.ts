/** Files that have their name only when they are complete. */
import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  linkSync,
  openSync,
  realpathSync,
  renameSync,
  statSync,
  unlinkSync,
  type Stats,
} from 'node:fs';
import { dirname } from 'node:path';
import { systemCode } from '../kvm/system-code.ts';
import { linkFile } from '../kvm/host-file.ts';
import { StorageError } from './disk.ts';
import { FileLocks } from './file-lock.ts';
import { syncFolder } from './sync-folder.ts';

/** open(2), on x86-64; Node.js has no name for it */
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;

/** temporary names of this process, for file systems that need one */
const named = new Set<string>();

function note(name: string): void {
  if (named.size === 0) process.on('exit', removeNamed);
  named.add(name);
}

function forget(name: string): boolean {
  const wasThere = named.delete(name);
  if (wasThere && named.size === 0) process.off('exit', removeNamed);
  return wasThere;
}

function removeNamed(): void {
  for (const name of named) removeQuietly(name);
}

/**
 * A new file beside its later name. Where the file system can (ext4, XFS, Btrfs, tmpfs), it has no name at all until
 * then, and nothing is left of it even where this process is killed.
 */
export class NewFile {
  /** what it is to be called */
  readonly path: string;
  /** by which this process can open it meanwhile */
  readonly workPath: string;
  readonly fd: number;
  readonly #temporary: string;
  readonly #isNamed: boolean;
  readonly #replaced: FileLocks | undefined;
  #open = true;

  /**
   * @param replace whether a regular file of this name, which nobody uses, may be lost
   * @throws StorageError where there is such a file, or the folder cannot be written to
   */
  constructor(path: string, replace = false) {
    const old = statOf(path);
    if (old !== undefined && !replace)
      throw new StorageError(
        path,
        'EEXIST',
        'there is such a file already',
        'choose another name, or --force',
      );
    if (old?.isFile() === false) throw new StorageError(path, 'EINVAL', 'this is no regular file');
    // Where the name is a link, what it leads to is replaced.
    this.path = old === undefined ? path : realpathSync(path);
    this.#replaced = old === undefined ? undefined : new FileLocks([[this.path, 'write']]);
    this.#temporary = `${this.path}.${process.pid}.part`;
    try {
      const unnamed = openUnnamed(dirname(this.path));
      this.#isNamed = unnamed === undefined;
      this.fd = unnamed ?? openSync(this.#temporary, 'wx+', 0o644);
    } catch (error) {
      this.#replaced?.release();
      throw creationError(path, error);
    }
    this.workPath = this.#isNamed ? this.#temporary : `/proc/self/fd/${this.fd}`;
    if (this.#isNamed) note(this.#temporary);
    // What was private stays so.
    if (old !== undefined) fchmodSync(this.fd, old.mode & 0o777);
  }

  /**
   * Brings the file to stable storage, and gives it its name.
   * @throws StorageError where there is such a file now; the new one is gone then
   */
  publish(): void {
    try {
      fsyncSync(this.fd);
      if (this.#replaced !== undefined) {
        if (!this.#isNamed) linkFile(this.fd, this.#temporary);
        note(this.#temporary);
        renameSync(this.#temporary, this.path);
      } else if (this.#isNamed) {
        linkSync(this.#temporary, this.path);
        unlinkSync(this.#temporary);
      } else linkFile(this.fd, this.path);
      forget(this.#temporary);
      syncFolder(dirname(this.path));
    } catch (error) {
      throw creationError(this.path, error);
    } finally {
      this.discard();
    }
  }

  /** What is not published is gone. May be called again. */
  discard(): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.fd);
    this.#replaced?.release();
    if (forget(this.#temporary)) removeQuietly(this.#temporary);
  }

  /** An error about the file under its temporary name, in terms of the one that the user knows. */
  errorOf(error: unknown): StorageError {
    if (!(error instanceof StorageError)) return creationError(this.path, error);
    const prefix = `${this.workPath}: `;
    if (!error.message.startsWith(prefix)) return error;
    return new StorageError(this.path, error.code, error.message.slice(prefix.length), error.hint);
  }
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw creationError(path, error);
  }
}

/** Undefined where the file system has no such files. */
function openUnnamed(folder: string): number | undefined {
  try {
    return openSync(folder, constants.O_RDWR | O_TMPFILE, 0o644);
  } catch (error) {
    // EISDIR is how a kernel that does not know the flag takes it.
    if (['EOPNOTSUPP', 'ENOTSUP', 'EISDIR', 'EINVAL'].includes(systemCode(error) ?? 'EIO')) return undefined;
    throw error;
  }
}

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It is gone already.
  }
}

const REASONS: Readonly<Record<string, readonly [message: string, hint?: string]>> = {
  EEXIST: ['there is such a file already', 'choose another name, or --force'],
  ENOENT: ['cannot be created: there is no such folder', 'make the folder first (`mkdir -p`)'],
  ENOTDIR: ['cannot be created: what it is to be in is no folder'],
  EACCES: ['cannot be created: permission denied', 'check who owns the folder'],
  EROFS: ['cannot be created: the file system is read-only'],
  ENOSPC: ['cannot be written: no space is left on the file system', 'free some, or choose another place'],
  EFBIG: ['cannot be written: the file is too large for its file system'],
};

function creationError(path: string, error: unknown): StorageError {
  if (error instanceof StorageError) return error;
  const code = systemCode(error) ?? 'EIO';
  const [message, hint] = REASONS[code] ?? [`cannot be created: ${code}`];
  return new StorageError(path, code, message, hint);
}
