import type { IoRing } from '../kvm/io-ring.ts';
import type { Disk, DiskCache } from './disk.ts';
import type { ChainPolicy } from './qcow2/chain.ts';
import { openRaw } from './raw.ts';

export type DiskFormat = 'raw' | 'qcow2';

export type DiskOptions = {
  /** image file or block device */
  readonly path: string;
  /** never guessed: a guest writes what it likes to the place where a format is recognized */
  readonly format: DiskFormat;
  /** default false */
  readonly readOnly?: boolean;
  /** default `writeback` */
  readonly cache?: DiskCache;
  /** what files below a qcow2 image may be used; default: those in the folder of the image that names them */
  readonly backing?: ChainPolicy;
  /** what is found to be wrong with an image in use; default: standard error */
  readonly log?: (line: string) => void;
};

/** Opens a disk image. Rejects with StorageError. */
export async function openDisk(ring: IoRing, options: DiskOptions): Promise<Disk> {
  const { path, format, readOnly = false, cache = 'writeback', backing, log } = options;
  if (format === 'raw') return openRaw(ring, path, { readOnly, cache });
  // Loaded here: a VM on raw disks has no use for it.
  const { openQcow2 } = await import('./qcow2/chain.ts');
  return openQcow2(ring, { ...backing, path, readOnly, cache, ...(log && { log }) });
}
