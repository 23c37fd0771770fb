import type { IoRing } from '../kvm/io-ring.ts';
import type { Disk, DiskCache } from './disk.ts';
import { openRaw } from './raw.ts';

export type DiskFormat = 'raw';

export type DiskOptions = {
  /** image file or block device */
  readonly path: string;
  /** never guessed: a guest writes what it likes to the place where a format is recognized */
  readonly format: DiskFormat;
  /** default false */
  readonly readOnly?: boolean;
  /** default `writeback` */
  readonly cache?: DiskCache;
};

/** Opens a disk image. Rejects with StorageError. */
export function openDisk(ring: IoRing, options: DiskOptions): Promise<Disk> {
  const { path, readOnly = false, cache = 'writeback' } = options;
  return new Promise((resolve) => {
    resolve(openRaw(ring, path, { readOnly, cache }));
  });
}
