/** Random images and random use of them, from a seed; what the guest should see is kept beside. */
import { DISK_OPERATION, type Disk } from '../../../src/storage/disk.ts';
import { layoutImage, type CreateOptions } from '../../../src/storage/qcow2/create.ts';
import { openImage } from '../../../src/storage/qcow2/open.ts';
import type { Qcow2Disk } from '../../../src/storage/qcow2/qcow2-disk.ts';
import type { Random } from '../../fuzz/random.ts';
import { MemoryDisk } from './memory-disk.ts';
import { DiskUser } from './disk-user.ts';
import { SimFile, type SimOptions } from './sim-file.ts';

export const SECTOR = 512;

/** A new image as its bytes. */
export function newImage(options: CreateOptions): Uint8Array {
  const layout = layoutImage('new.qcow2', options);
  const bytes = new Uint8Array(layout.end);
  for (const { offset, bytes: part } of layout.segments()) bytes.set(part, offset);
  return bytes;
}

export type Geometry = Omit<CreateOptions, 'size' | 'backingFile' | 'backingFormat'>;

export function randomGeometry(random: Random): Geometry {
  const version = random.oneIn(6) ? 2 : 3;
  const clusterSize = random.oneIn(30)
    ? 2 ** 21
    : random.pick([512, 512, 1024, 4096, 16384, 32768, 65536, 2 ** 17]);
  if (version === 2) return { version, clusterSize };
  return {
    version,
    clusterSize,
    refcountBits: random.pick([1, 2, 4, 8, 16, 16, 32, 64]),
    extendedL2: clusterSize >= 16384 && random.oneIn(2),
    lazyRefcounts: random.oneIn(6),
    preallocation: random.oneIn(8) ? 'metadata' : 'off',
  };
}

/** A size that is no multiple of the cluster size more often than not; with several L2 tables now and then. */
export function randomSize(random: Random, { clusterSize = 65536 }: Geometry): number {
  const clusters = random.oneIn(3) ? random.between(100, 2000) : random.between(1, 40);
  return Math.min(2 ** 21, Math.max(clusterSize * clusters, 8192)) + SECTOR * random.below(9);
}

/** What each sector may hold after a power cut: contents are numbers that {@link fillSector} spreads out. */
export type Operation =
  | { readonly kind: 'write'; readonly sector: number; readonly count: number; readonly tag: number }
  | { readonly kind: 'zero'; readonly sector: number; readonly count: number; readonly unmap: boolean }
  | { readonly kind: 'discard'; readonly sector: number; readonly count: number }
  | { readonly kind: 'flush' };

export function randomOperation(random: Random, sectors: number, tag: number): Operation {
  const sector = random.below(sectors);
  const longest = Math.min(sectors - sector, random.pick([1, 4, 16, 128, 600]));
  const count = random.between(1, longest);
  const choice = random.below(20);
  if (choice < 13) return { kind: 'write', sector, count, tag };
  if (choice < 15) return { kind: 'zero', sector, count, unmap: random.oneIn(2) };
  if (choice < 17) return { kind: 'discard', sector, count };
  return { kind: 'flush' };
}

/** Bytes of `count` sectors: each has the tag and its own number, so one that is misplaced shows. */
export function sectorBytes(sector: number, count: number, tag: number): Uint8Array {
  const bytes = new Uint8Array(count * SECTOR);
  const words = new Uint32Array(bytes.buffer);
  for (let i = 0; i < count; i++) words.fill(tag, (i * SECTOR) / 4, ((i + 1) * SECTOR) / 4);
  for (let i = 0; i < count; i++) words[(i * SECTOR) / 4] = sector + i;
  return bytes;
}

/** Tag of what is read: 0 for zeros, -1 where it is no sector that was ever written there. */
export function tagOf(bytes: Uint8Array, sector: number): number {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, SECTOR / 4);
  const tag = words[1]!;
  for (let i = 1; i < words.length; i++) if (words[i] !== tag) return -1;
  if (tag === 0) return words[0] === 0 ? 0 : -1;
  return words[0] === sector ? tag : -1;
}

export const BACKING_TAG = 0xbbbb;

/** A backing disk whose sectors have {@link BACKING_TAG}, every seventh of 16 KiB zero. */
export function backingBytes(size: number): Uint8Array {
  const bytes = sectorBytes(0, size / SECTOR, BACKING_TAG);
  for (let at = 0; at < size; at += 7 * 16384) bytes.fill(0, at, Math.min(size, at + 16384));
  return bytes;
}

export type OpenCase = { readonly disk: Qcow2Disk; readonly user: DiskUser; readonly file: SimFile };

export async function openCase(
  bytes: Uint8Array,
  sim: SimOptions,
  backing?: Uint8Array,
  log: (line: string) => void = () => undefined,
): Promise<OpenCase> {
  const file = new SimFile('case.qcow2', bytes, sim);
  const below: Disk | undefined = backing === undefined ? undefined : new MemoryDisk(backing);
  const disk = await openImage(file, below, { log, cacheSize: 8192, bufferSize: 65536 });
  return { disk, user: new DiskUser(disk), file };
}

export function submit(user: DiskUser, operation: Operation, done: (error: number) => void): void {
  switch (operation.kind) {
    case 'flush':
      user.submit(DISK_OPERATION.flush, 0, 0, done);
      return;
    case 'write': {
      const { sector, count, tag } = operation;
      user.submit(DISK_OPERATION.write, sector * SECTOR, sectorBytes(sector, count, tag), done);
      return;
    }
    case 'zero': {
      const { sector, count, unmap } = operation;
      user.submit(DISK_OPERATION.writeZeroes, sector * SECTOR, count * SECTOR, done, unmap);
      return;
    }
    case 'discard':
      user.submit(DISK_OPERATION.discard, operation.sector * SECTOR, operation.count * SECTOR, done);
  }
}
