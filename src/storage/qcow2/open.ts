/** Opens one image, without what is below it; chain.ts does that. */
import { StorageError, type Disk, type DiskCache } from '../disk.ts';
import { Backing } from './backing.ts';
import { decompressorFor } from './compression.ts';
import { errnoOf } from './file-io.ts';
import { INCOMPATIBLE, SECTOR, toHex } from './format.ts';
import { headerBytes, parseHeader, viewOf, type Header } from './header.ts';
import type { HostFile } from './host-file.ts';
import { Image } from './image.ts';
import { Mapping } from './mapping.ts';
import { MetadataMap, type Area } from './metadata-map.ts';
import { Qcow2Disk } from './qcow2-disk.ts';
import { Reader } from './reader.ts';
import { Refcounts } from './refcounts.ts';
import { readSnapshots } from './snapshots.ts';
import { readFully } from './sync-read.ts';
import { RangeLocks, type Task } from './task.ts';
import { WriteBack } from './write-back.ts';
import { Writer } from './writer.ts';
import { Zeroer } from './zeroer.ts';

export type OpenImageOptions = {
  /** `none` goes through the page cache too, as `writeback`: tables and guest data share the file. Default that */
  readonly cache?: DiskCache;
  /** limit of the L2 cache, in bytes; default 32 MiB, which maps 256 GiB with clusters of 64 KiB */
  readonly cacheSize?: number;
  /** limit of memory for copying writes, in bytes; default 32 MiB */
  readonly bufferSize?: number;
  /** what is wrong with an image, for the user */
  readonly log?: (line: string) => void;
};

const DEFAULT_CACHE = 32 * 2 ** 20;
const DEFAULT_BUFFERS = 32 * 2 ** 20;

/** The header of the image in this file. @throws StorageError */
export function readHeader(file: HostFile): { header: Header; bytes: Uint8Array } {
  const start = readFully(file, 0, SECTOR);
  const bytes = readFully(file, 0, headerBytes(start));
  return { header: parseHeader(file.path, bytes), bytes };
}

/**
 * @param file closed with the disk, or here where this fails
 * @param backing what is below it, read-only; closed with the disk. Undefined where the header names nothing
 * @throws StorageError
 */
export async function openImage(
  file: HostFile,
  backing: Disk | undefined,
  options: OpenImageOptions = {},
): Promise<Qcow2Disk> {
  try {
    return await open(file, backing, options);
  } catch (error) {
    file.close();
    throw error;
  }
}

async function open(
  file: HostFile,
  backing: Disk | undefined,
  options: OpenImageOptions,
): Promise<Qcow2Disk> {
  const { header, bytes } = readHeader(file);
  const bad = (message: string): StorageError =>
    new StorageError(file.path, 'EBADIMAGE', message, REPAIR_HINT);
  if (!file.readOnly) checkMayWrite(file.path, header);
  const decompress = await decompressorFor(header.compression);
  const image = new Image(file, header, bytes, {
    cache: options.cache ?? 'writeback',
    cacheSize: options.cacheSize ?? DEFAULT_CACHE,
    bufferSize: options.bufferSize ?? DEFAULT_BUFFERS,
    log: options.log ?? ((line) => console.error(line)),
  });
  const { clusterSize } = header.geometry;
  const l1 = readFully(file, header.l1Offset, header.l1Entries * 8);
  if (header.l1Offset + header.l1Entries * 8 > image.end)
    throw bad(`the L1 table at ${toHex(header.l1Offset)} is cut off`);
  const l1Table = new Uint8Array(header.l1Entries * 8);
  l1Table.set(l1);
  const blocks = file.readOnly ? new Float64Array(0) : readRefcountTable(file, header, image.end, bad);
  const others = file.readOnly || header.snapshotCount === 0 ? [] : snapshotAreas(file, header);
  const map = new MetadataMap(
    clusterSize,
    { offset: header.l1Offset, length: header.l1Entries * 8 },
    { offset: header.refcountTableOffset, length: header.refcountTableClusters * clusterSize },
    others,
    file.readOnly ? new Float64Array(0) : tableOffsets(l1Table),
    blocks,
  );
  if (map.refcountBlocks.hasDuplicates) throw bad('a refcount block is in the table twice');
  const refcounts = new Refcounts(image, map, blocks);
  const parts: { writeBack?: WriteBack } = {};
  const mapping = new Mapping(image, map, refcounts, l1Table, () => flushOf(parts));
  const below = backing === undefined ? undefined : new Backing(backing, () => image.run());
  const reader = new Reader(image, mapping, below, decompress);
  const writer = new Writer(image, map, mapping, refcounts, reader, new RangeLocks(image.tasks));
  const zeroer = new Zeroer(image, mapping, reader, writer);
  const writeBack = new WriteBack(image, mapping, refcounts, () => reader.forgetUnpacked());
  parts.writeBack = writeBack;
  if (!file.readOnly && header.autoclear !== 0n) {
    // "autoclear_features": whoever does not keep what they stand for up to date must clear them before it writes.
    header.autoclear = 0n;
    try {
      await image.complete(image.writeHeader());
    } catch (error) {
      throw new StorageError(file.path, 'EIO', `cannot be written to: errno ${errnoOf(error)}`);
    }
  }
  return new Qcow2Disk({ image, mapping, refcounts, reader, writer, zeroer, writeBack, backing: below });
}

function* flushOf(parts: { readonly writeBack?: WriteBack }): Task {
  if (parts.writeBack !== undefined) yield* parts.writeBack.flush();
}

const REPAIR_HINT = '`tsvm disk check --repair` may mend it';

function checkMayWrite(path: string, { incompatible }: Header): void {
  if ((incompatible & INCOMPATIBLE.corrupt) !== 0)
    throw new StorageError(
      path,
      'EBADIMAGE',
      'the image is marked as corrupt: it can only be read',
      REPAIR_HINT,
    );
  if ((incompatible & INCOMPATIBLE.dirty) !== 0)
    throw new StorageError(
      path,
      'EDIRTY',
      'the image was not closed: its refcounts are out of date',
      REPAIR_HINT,
    );
}

function tableOffsets(table: Uint8Array): Float64Array {
  const view = viewOf(table);
  const offsets = new Float64Array(table.length / 8);
  for (let i = 0; i < offsets.length; i++) {
    offsets[i] =
      (view.getUint32(8 * i) & 0x00ff_ffff) * 2 ** 32 + ((view.getUint32(8 * i + 4) & 0xffff_fe00) >>> 0);
  }
  return offsets;
}

/** @throws StorageError where an entry makes no sense: nothing can be allocated then */
function readRefcountTable(
  file: HostFile,
  header: Header,
  end: number,
  bad: (message: string) => StorageError,
): Float64Array {
  const { clusterSize } = header.geometry;
  const length = header.refcountTableClusters * clusterSize;
  if (header.refcountTableOffset + length > end) throw bad('the refcount table is cut off');
  const bytes = readFully(file, header.refcountTableOffset, length);
  const view = viewOf(bytes);
  const blocks = new Float64Array(length / 8);
  for (let i = 0; i < Math.floor(bytes.length / 8); i++) {
    const offset = view.getUint32(8 * i) * 2 ** 32 + view.getUint32(8 * i + 4);
    if (offset % clusterSize !== 0 || offset + clusterSize > end)
      throw bad(`entry ${i} of the refcount table, ${toHex(offset)}, makes no sense`);
    blocks[i] = offset;
  }
  return blocks;
}

function snapshotAreas(file: HostFile, header: Header): Area[] {
  const { snapshots, length } = readSnapshots(file, header);
  return [
    { name: 'the snapshot table', offset: header.snapshotsOffset, length },
    ...snapshots.map(({ l1Offset, l1Entries, name }) => ({
      name: `the L1 table of snapshot ${JSON.stringify(name)}`,
      offset: l1Offset,
      length: l1Entries * 8,
    })),
  ];
}
