/**
 * A guest's disk, read from outside: its partitions, and files by their paths. Whatever is on it was written by a
 * guest: it is checked where it is used, takes a bounded time and memory, and ends as a GuestFsError at worst.
 */
import { IoRing } from '../../kvm/io-ring.ts';
import { openDisk } from '../open.ts';
import type { SourceImage } from '../tools.ts';
import { GuestFsError, unsupported } from './error.ts';
import { openExt4 } from './ext4/ext4.ts';
import { openFat } from './fat/fat.ts';
import { PathWalker, type GuestFs } from './guest-fs.ts';
import { identify, type VolumeKind } from './identify.ts';
import { readPartitions } from './partition-table.ts';
import type { Partition, PartitionTable } from './partition.ts';
import { openXfs } from './xfs/xfs.ts';
import { DiskReader, limitedReader, slice, type ByteReader } from './reader.ts';

/** Some 16 GiB in large pieces, or ten seconds of small reads. */
const READ_LIMIT = 2 ** 22;

export type GuestVolume = {
  readonly partition: Partition;
  readonly content: VolumeKind;
  /** Its file system. @throws GuestFsError: EUNSUPPORTED or EUNKNOWN by name of what is there, ECORRUPT, EIO */
  open(): Promise<GuestFs>;
};

export class GuestDisk {
  readonly table: PartitionTable;
  readonly volumes: readonly GuestVolume[];

  private constructor(table: PartitionTable, volumes: readonly GuestVolume[]) {
    this.table = table;
    this.volumes = volumes;
  }

  /**
   * @param limit how much is read before it is given up, as for `limitedReader`
   * @throws GuestFsError: ECORRUPT where the partition table cannot be used, EIO
   */
  static async read(disk: ByteReader, limit = READ_LIMIT): Promise<GuestDisk> {
    const reader = limitedReader(disk, limit);
    const table = await readPartitions(reader);
    const volumes: GuestVolume[] = [];
    for (const partition of table.partitions) {
      const volume = slice(reader, partition.offset, partition.size);
      volumes.push(volumeOf(partition, volume, await identify(volume)));
    }
    return new GuestDisk(table, volumes);
  }
}

function volumeOf(partition: Partition, volume: ByteReader, content: VolumeKind): GuestVolume {
  let opened: Promise<GuestFs> | undefined;
  return {
    partition,
    content,
    open: () => (opened ??= openVolume(volume, content)),
  };
}

/** @throws GuestFsError */
async function openVolume(volume: ByteReader, content: VolumeKind): Promise<GuestFs> {
  switch (content.kind) {
    case 'ext4':
      return new PathWalker(await openExt4(volume));
    case 'vfat':
      return new PathWalker(await openFat(volume));
    case 'xfs':
      return new PathWalker(await openXfs(volume));
    case 'other':
      throw unsupported(`${content.name} is not read`);
    case 'empty':
      throw new GuestFsError('EUNKNOWN', 'there is nothing');
    case 'unknown':
      throw new GuestFsError('EUNKNOWN', 'there is no file system that is known');
  }
}

/**
 * Reads a disk image that no VM uses, with all its layers.
 * @throws StorageError where it cannot be opened, GuestFsError, and what `use` throws
 */
export async function withGuestDisk<T>(image: SourceImage, use: (disk: GuestDisk) => Promise<T>): Promise<T> {
  const ring = new IoRing();
  try {
    const reader = new DiskReader(await openDisk(ring, { ...image, readOnly: true }), ring);
    try {
      return await use(await GuestDisk.read(reader));
    } finally {
      await reader.close();
    }
  } finally {
    ring.close();
  }
}
