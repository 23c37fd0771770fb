import { StorageError } from '../../../src/storage/disk.ts';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import { CompressedWriter } from '../../../src/storage/qcow2/compressed-writer.ts';
import { openImage } from '../../../src/storage/qcow2/open.ts';
import { DISK_OPERATION } from '../../../src/storage/disk.ts';
import {
  backingBytes,
  newImage,
  openCase,
  randomOperation,
  SECTOR,
  submit,
  type Geometry,
} from '../../support/storage/image-case.ts';
import { DiskUser } from '../../support/storage/disk-user.ts';
import { MemoryDisk } from '../../support/storage/memory-disk.ts';
import { SimFile } from '../../support/storage/sim-file.ts';
import type { FuzzTarget } from '../engine.ts';
import { Random } from '../random.ts';

const GEOMETRIES: readonly Geometry[] = [
  { clusterSize: 512 },
  { clusterSize: 512, refcountBits: 1 },
  { clusterSize: 1024, refcountBits: 64 },
  { clusterSize: 4096, lazyRefcounts: true },
  { clusterSize: 4096, version: 2 },
  { clusterSize: 16384, extendedL2: true },
  { clusterSize: 65536 },
];
const backing = backingBytes(40 * 1024);
const LARGEST_READ = 2 ** 20;
/** What refcount blocks that are full of nonsense can drive allocation to; offsets out of tables go further. */
const FURTHEST_WRITE = 2 ** 36;

/** Small images with data, zeros, compressed clusters, clusters from below, and with no clean end. */
async function samples(): Promise<Uint8Array[]> {
  const images: Uint8Array[] = [];
  for (const [i, geometry] of GEOMETRIES.entries()) {
    const { clusterSize = 65536 } = geometry;
    const size = Math.max(64 * 1024, 6 * clusterSize) + SECTOR;
    const name = { backingFile: 'below.raw', backingFormat: 'raw' as const };
    const created = newImage({ ...geometry, size, ...(i % 2 === 0 && name) });
    const { disk, user, file } = await openCase(created, {}, i % 2 === 0 ? backing : undefined);
    const random = new Random(i);
    await user.write(0, new Uint8Array(3 * clusterSize).fill(7));
    const packer = new CompressedWriter(disk.parts);
    for (let cluster = 2; cluster < 5; cluster++) {
      const bytes = new Uint8Array(clusterSize).fill(cluster);
      random.fill(bytes.subarray(0, 40));
      await disk.parts.image.complete(packer.write(cluster * clusterSize, bytes));
    }
    packer.finish();
    await user.writeZeroes(clusterSize, clusterSize, i % 2 === 0);
    await user.flush();
    images.push(Uint8Array.from(file.content));
    await disk.close();
    images.push(Uint8Array.from(file.content));
  }
  return images;
}

const images = await samples();

const INTERESTING = [0, 1, 0x1ff, 0x200, 0x10000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/** Changes a number here and there, where they mean something more often than not. */
function damage(random: Random, image: Uint8Array): Uint8Array {
  let bytes = Uint8Array.from(image);
  const view = new DataView(bytes.buffer);
  const clusterSize = 2 ** view.getUint32(20);
  const tables = [40, 48, 64].map((at) => view.getUint32(at + 4));
  const l1 = view.getUint32(44);
  tables.push(view.getUint32(l1 + 4), view.getUint32(view.getUint32(52) + 4));
  for (let i = random.between(1, 6); i > 0; i--) {
    const table = random.pick(tables);
    const at = random.oneIn(3)
      ? 4 * random.below(28)
      : Math.min(bytes.length - 8, table + 4 * random.below(random.pick([4, 16, clusterSize / 4])));
    if (at < 0) continue;
    const choice = random.below(5);
    if (choice === 0) view.setUint32(at, random.pick(INTERESTING));
    else if (choice === 1) view.setUint32(at, view.getUint32(at) ^ (1 << random.below(32)));
    // Another cluster of the same file, as an entry refers to it.
    else if (choice === 2) view.setUint32(at + (at % 8 === 0 ? 4 : 0), clusterSize * random.below(24));
    else if (choice === 3) view.setUint8(at, random.below(256));
    else bytes.copyWithin(at, random.below(bytes.length), random.below(bytes.length));
  }
  if (random.oneIn(8)) bytes = bytes.slice(0, random.between(1, bytes.length));
  return bytes;
}

async function ask(user: DiskUser, done: (finish: (error: number) => void) => void): Promise<void> {
  await new Promise<void>((resolve) => {
    done(() => resolve());
    user.disk.commit();
  });
}

/** Reads, writes, gives up and flushes; any answer is right, as long as there is one. */
async function use(
  random: Random,
  file: SimFile,
  below: Uint8Array | undefined,
  isChecked: boolean,
): Promise<void> {
  const disk = await openImage(file, below && new MemoryDisk(below), {
    cacheSize: 4096,
    bufferSize: 65536,
    log: () => undefined,
  });
  const user = new DiskUser(disk);
  const length = Math.min(LARGEST_READ, disk.size);
  const start = random.oneIn(2) ? 0 : SECTOR * random.below((disk.size - length) / SECTOR + 1);
  const bytes = new Uint8Array(length);
  if (length > 0) await ask(user, (finish) => user.submit(DISK_OPERATION.read, start, bytes, finish));
  const sectors = Math.min(disk.size, LARGEST_READ) / SECTOR;
  if (!file.readOnly && sectors > 0) {
    for (let i = random.between(1, 6); i > 0; i--) {
      const operation = randomOperation(random, sectors, 0x1_0000 + i);
      await ask(user, (finish) => submit(user, operation, finish));
    }
    if (random.oneIn(4)) await disk.resize(SECTOR * random.below(2 * sectors)).catch(expectStorageError);
  }
  await disk.close().catch(expectStorageError);
  if (isChecked) await checkImage(file.copy(), { repair: random.pick(['leaks', 'all']) });
}

function expectStorageError(error: unknown): void {
  if (!(error instanceof StorageError)) throw error;
  if (!/^[^\n]{10,400}$/.test(error.message)) throw new Error(`no message for a person: ${error.message}`);
}

/** Damaged images: refused or served, in bounded time and memory, and the file grows by no more than was written. */
export const qcow2Target: FuzzTarget = {
  name: 'qcow2',
  run: async (random) => {
    const number = random.below(images.length);
    const image = damage(random, images[number]!);
    const file = new SimFile('fuzz.qcow2', image, { readOnly: random.oneIn(4), limit: 2 ** 26 });
    try {
      await use(random, file, Math.floor(number / 2) % 2 === 0 ? backing : undefined, random.oneIn(2));
    } catch (error) {
      expectStorageError(error);
    } finally {
      file.close();
    }
    if (file.furthest > FURTHEST_WRITE) throw new Error(`a write to ${file.furthest}`);
  },
};
