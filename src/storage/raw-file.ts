/** The host file or block device that a raw disk is kept in: how it is opened, and what it is like. */
import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  type Stats,
} from 'node:fs';
import { nextData, nextHole } from '../kvm/host-file.ts';
import { StorageError, type DiskCache } from './disk.ts';
import { lockOpenFile } from './file-lock.ts';

const SECTOR = 512;
const PAGE = 4096;

/** What to do about the usual failures to open. */
function hintFor(code: string, direct: boolean): string | undefined {
  switch (code) {
    case 'ENOENT':
      return 'check the path, or create a disk with `tsvm disk create --format raw FILE 10G`';
    case 'EACCES':
    case 'EPERM':
      return "check the file's owner and permissions, or attach it read-only";
    case 'EROFS':
      return 'attach the disk read-only, or move it to a file system that can be written';
    case 'EINVAL':
      return direct ? 'its file system has no direct I/O: use cache=writeback' : undefined;
    case 'EMFILE':
      return 'raise the limit of open files (`ulimit -n`)';
    default:
      return undefined;
  }
}

function wrap(path: string, error: unknown, what: string, direct = false): StorageError {
  if (error instanceof StorageError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? 'EIO';
  return new StorageError(path, code, `${what}: ${code}`, hintFor(code, direct));
}

function checkKind(path: string, stats: Stats): void {
  if (stats.isFile() || stats.isBlockDevice()) return;
  const kind = stats.isDirectory() ? 'a directory' : 'neither a file nor a block device';
  throw new StorageError(path, 'EINVAL', `${kind} is no disk`);
}

/** Facts of a block device, from sysfs. */
class BlockDeviceFacts {
  readonly #folder: string;

  constructor(rdev: number) {
    // as glibc's gnu_dev_major() and gnu_dev_minor() for device numbers of 32 bits, which are all that Linux has
    const major = (rdev >>> 8) & 0xfff;
    const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xf_ff00);
    this.#folder = `/sys/dev/block/${major}:${minor}`;
  }

  /** in bytes */
  get size(): number {
    return this.#number('size') * SECTOR;
  }

  /** A number of the request queue, which a partition has not itself; 0 where there is none. */
  queue(name: string): number {
    try {
      return this.#number(`queue/${name}`);
    } catch {
      try {
        return this.#number(`../queue/${name}`);
      } catch {
        return 0;
      }
    }
  }

  #number(name: string): number {
    return Number(readFileSync(`${this.#folder}/${name}`, 'utf8'));
  }
}

export type RawFileOptions = {
  readonly readOnly: boolean;
  readonly cache: DiskCache;
  /** whether it is locked against others; not where the caller has done so. Default true */
  readonly lock?: boolean;
  /** takes what is wrong with a file in use */
  readonly log?: ((line: string) => void) | undefined;
};

export class RawFile {
  readonly path: string;
  readonly fd: number;
  readonly readOnly: boolean;
  /** opened with O_DIRECT */
  readonly direct: boolean;
  readonly blockSize: 512 | 4096;
  readonly discards: boolean;
  readonly discardGranularity: number;
  readonly #stats: Stats;
  #bufferedFd: number | undefined;
  #closed = false;

  /** @throws StorageError */
  constructor(path: string, options: RawFileOptions) {
    const { readOnly, cache, lock = true, log } = options;
    this.path = path;
    this.readOnly = readOnly;
    this.direct = cache === 'none';
    try {
      // Asked first: opening a FIFO blocks, and other devices may do anything.
      checkKind(path, statSync(path));
      this.fd = openSync(path, this.#flags | (this.direct ? constants.O_DIRECT : 0));
    } catch (error) {
      throw wrap(path, error, 'cannot be opened', this.direct);
    }
    try {
      this.#stats = fstatSync(this.fd);
      checkKind(path, this.#stats);
      if (lock) lockOpenFile(this.fd, path, readOnly ? 'read' : 'write', log);
      const device = this.#device;
      if (device === undefined) {
        // Even one byte is read and written as a page of the cache, or a block of the file system.
        this.blockSize = this.#stats.blksize >= PAGE ? PAGE : SECTOR;
        this.discards = !readOnly;
        this.discardGranularity = Math.max(SECTOR, this.#stats.blksize);
      } else {
        this.blockSize = device.queue('physical_block_size') >= PAGE ? PAGE : SECTOR;
        this.discards = !readOnly && device.queue('discard_max_bytes') > 0;
        const granularity = Math.max(device.queue('discard_granularity'), device.queue('logical_block_size'));
        this.discardGranularity = Math.max(SECTOR, Math.floor(granularity / SECTOR) * SECTOR);
      }
      if (this.size === 0) {
        throw new StorageError(path, 'EINVAL', 'is empty', 'give it a size with `truncate -s 10G FILE`');
      }
    } catch (error) {
      closeSync(this.fd);
      throw wrap(path, error, 'cannot be used');
    }
  }

  /** Size at this moment in bytes, rounded up to whole sectors. */
  get size(): number {
    const bytes = this.#device?.size ?? fstatSync(this.fd).size;
    return Math.ceil(bytes / SECTOR) * SECTOR;
  }

  /** The same file through the page cache, opened at the first use. @throws StorageError */
  get bufferedFd(): number {
    if (!this.direct) return this.fd;
    try {
      // The path may name another file by now.
      this.#bufferedFd ??= openSync(`/proc/self/fd/${this.fd}`, this.#flags);
      return this.#bufferedFd;
    } catch (error) {
      throw wrap(this.path, error, 'cannot be opened once more');
    }
  }

  /** What the host has at `start`, up to `end`; whole sectors. All is data where it does not tell. */
  extentAt(start: number, end: number): { readonly isData: boolean; readonly length: number } {
    try {
      const data = Math.min(nextData(this.fd, start) ?? end, end);
      const from = Math.floor(data / SECTOR) * SECTOR;
      if (from > start) return { isData: false, length: from - start };
      const to = Math.ceil((nextHole(this.fd, data) ?? end) / SECTOR) * SECTOR;
      return { isData: true, length: Math.max(SECTOR, Math.min(to, end) - start) };
    } catch {
      return { isData: true, length: end - start };
    }
  }

  /** @throws StorageError */
  truncate(size: number): void {
    if (this.#device !== undefined) {
      if (size === this.size) return;
      throw new StorageError(
        this.path,
        'EINVAL',
        `a block device of ${this.size} bytes stays as large as it is`,
        'resize it on the host first',
      );
    }
    try {
      ftruncateSync(this.fd, size);
    } catch (error) {
      throw wrap(this.path, error, `cannot be resized to ${size} bytes`);
    }
  }

  /** Rejects with StorageError. */
  sync(): Promise<void> {
    return new Promise((resolve, reject) => {
      fdatasync(this.fd, (error) => {
        if (error === null) resolve();
        else reject(wrap(this.path, error, 'cannot be synced'));
      });
    });
  }

  /** May be called again. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.fd);
    if (this.#bufferedFd !== undefined) closeSync(this.#bufferedFd);
  }

  get #flags(): number {
    return this.readOnly ? constants.O_RDONLY : constants.O_RDWR;
  }

  get #device(): BlockDeviceFacts | undefined {
    return this.#stats.isBlockDevice() ? new BlockDeviceFacts(this.#stats.rdev) : undefined;
  }
}
