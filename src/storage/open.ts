import { closeSync, constants, openSync, readSync } from 'node:fs';
import type { IoRing } from '../kvm/io-ring.ts';
import { StorageError, type Disk, type DiskCache } from './disk.ts';
import type { ChainPolicy } from './qcow2/chain.ts';
import { MAGIC as QCOW2_MAGIC } from './qcow2/format.ts';
import { openRaw } from './raw.ts';

export type DiskFormat = 'raw' | 'qcow2';

export type DiskOptions = {
  /** image file or block device */
  readonly path: string;
  /**
   * Never guessed: a guest writes what it likes to the place where a format is recognized. Default `raw`, but then an
   * image that looks like another format is refused
   */
  readonly format?: DiskFormat;
  /** default false */
  readonly readOnly?: boolean;
  /** default `writeback` */
  readonly cache?: DiskCache;
  /** what files below a qcow2 image may be used; default: those in the folder of the image that names them */
  readonly backing?: ChainPolicy;
  /** whether files are locked against others; not where the caller has done so. Default true */
  readonly lock?: boolean;
  /** what is found to be wrong with an image in use; default: standard error */
  readonly log?: (line: string) => void;
};

/** Opens a disk image. Rejects with StorageError. */
export async function openDisk(ring: IoRing, options: DiskOptions): Promise<Disk> {
  const { path, format, readOnly = false, cache = 'writeback', backing, lock, log } = options;
  const common = { readOnly, cache, ...(lock !== undefined && { lock }), ...(log && { log }) };
  if (format === undefined) refuseQcow2(path);
  if (format !== 'qcow2') return openRaw(ring, path, common);
  // Loaded here: a VM on raw disks has no use for it.
  const { openQcow2 } = await import('./qcow2/chain.ts');
  return openQcow2(ring, { ...backing, ...common, path });
}

/**
 * A qcow2 image that is taken for a raw disk is damaged by the first write. Taking it for qcow2 would be worse: a guest
 * with a raw disk could make that an image over any file of the host.
 * @throws StorageError
 */
export function refuseQcow2(path: string): void {
  if (!looksLikeQcow2(path)) return;
  throw new StorageError(
    path,
    'EFORMAT',
    'begins like a qcow2 image, and no format is given',
    'name the format: `format=qcow2` for --disk, `--format qcow2` for `tsvm disk`; or raw, for a raw disk whose guest ' +
      'has written that there',
  );
}

/** Whether a file begins as qcow2 images do. False where it cannot be read: opening it tells why. */
export function looksLikeQcow2(path: string): boolean {
  let fd: number | undefined;
  try {
    // Not to hang on a FIFO
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const start = Buffer.alloc(4);
    return readSync(fd, start, 0, 4, 0) === 4 && start.readUInt32BE() === QCOW2_MAGIC;
  } catch {
    return false;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
