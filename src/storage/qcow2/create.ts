/** New images. */
import { ftruncateSync } from 'node:fs';
import { StorageError } from '../disk.ts';
import { fillSpace, writeAll, type Preallocation } from '../fill-space.ts';
import { NewFile } from '../new-file.ts';
import {
  alignUp,
  COMPATIBLE,
  EXTENSION,
  HIGH_COPIED,
  INCOMPATIBLE,
  MAX_CLUSTER_BITS,
  MAX_REFCOUNT_TABLE_BYTES,
  MIN_CLUSTER_BITS,
  MIN_EXTENDED_CLUSTER_BITS,
  SECTOR,
  type Compression,
} from './format.ts';
import { geometryOf, l1EntriesFor, maxDiskSize } from './geometry.ts';
import { encodeHeader, viewOf, writeU64, type Header, type HeaderExtension } from './header.ts';
import { setRefcount } from './refcount-width.ts';

export type CreateOptions = {
  /** of the disk in bytes; rounded up to a multiple of 512 */
  readonly size: number;
  /** default 3 */
  readonly version?: 2 | 3;
  /** in bytes, a power of two from 512 to 2 MiB; default 64 KiB */
  readonly clusterSize?: number;
  /** 1, 2, 4, 8, 16, 32 or 64; default 16 */
  readonly refcountBits?: number;
  /** default false */
  readonly extendedL2?: boolean;
  /** of clusters that are written compressed; default zlib */
  readonly compression?: Compression;
  /** default false */
  readonly lazyRefcounts?: boolean;
  /** default `off` */
  readonly preallocation?: Preallocation;
  /** as it is to be in the header: absolute, or relative to the image's folder */
  readonly backingFile?: string;
  /** of the backing file; needed where there is one */
  readonly backingFormat?: 'raw' | 'qcow2';
  /** further header extensions */
  readonly extensions?: readonly HeaderExtension[];
};

/** Bytes of a new image at their place. What is between them is zeros. */
export type Segment = { readonly offset: number; readonly bytes: Uint8Array };

export type ImageLayout = {
  readonly header: Header;
  /** where guest data begins where all of it is mapped; else the end of the metadata */
  readonly dataOffset: number;
  /** of the file, in bytes */
  readonly end: number;
  segments(): Generator<Segment>;
};

/** Where everything of a new image goes. @throws StorageError where the options contradict the format */
export function layoutImage(path: string, options: CreateOptions): ImageLayout {
  const header = newHeader(path, options);
  const { geometry } = header;
  const { clusterSize, blockEntries } = geometry;
  const isMapped = (options.preallocation ?? 'off') !== 'off';
  const l1Clusters = Math.ceil((header.l1Entries * 8) / clusterSize);
  const dataClusters = isMapped ? Math.ceil(header.size / clusterSize) : 0;
  const l2Tables = isMapped ? header.l1Entries : 0;
  // The blocks count the table and themselves too.
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const total = 1 + tableClusters + blocks + l1Clusters + l2Tables + dataClusters;
    const neededBlocks = Math.ceil(total / blockEntries);
    const neededTable = Math.ceil((neededBlocks * 8) / clusterSize);
    if (neededBlocks <= blocks && neededTable <= tableClusters) break;
    blocks = Math.max(blocks, neededBlocks);
    tableClusters = Math.max(tableClusters, neededTable);
  }
  if (tableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES)
    throw new StorageError(path, 'EINVAL', 'the disk is too large for these clusters', 'use larger clusters');
  header.refcountTableOffset = clusterSize;
  header.refcountTableClusters = tableClusters;
  const blocksAt = (1 + tableClusters) * clusterSize;
  header.l1Offset = blocksAt + blocks * clusterSize;
  const l2At = header.l1Offset + l1Clusters * clusterSize;
  const dataOffset = l2At + l2Tables * clusterSize;
  const used = dataOffset / clusterSize + dataClusters;

  function* segments(): Generator<Segment> {
    yield { offset: 0, bytes: encodeHeader(path, header) };
    yield* tableSegments(clusterSize, blocks, blocksAt, clusterSize, (view, at, offset) =>
      writeU64(view, at, offset),
    );
    for (let block = 0; block < blocks; block++) {
      const bytes = new Uint8Array(clusterSize);
      const count = Math.min(blockEntries, used - block * blockEntries);
      for (let i = 0; i < count; i++) setRefcount(viewOf(bytes), i, geometry.refcountBits, 1);
      yield { offset: blocksAt + block * clusterSize, bytes };
    }
    const putCopied = (view: DataView, at: number, offset: number): void => {
      view.setUint32(at, (Math.floor(offset / 2 ** 32) | HIGH_COPIED) >>> 0);
      view.setUint32(at + 4, offset % 2 ** 32);
    };
    if (l2Tables === 0) {
      // The file must reach over the whole table.
      for (let i = 0; i < l1Clusters; i++)
        yield { offset: header.l1Offset + i * clusterSize, bytes: new Uint8Array(clusterSize) };
    } else yield* tableSegments(header.l1Offset, l2Tables, l2At, clusterSize, putCopied);
    for (let table = 0; table < l2Tables; table++) {
      const bytes = new Uint8Array(clusterSize);
      const view = viewOf(bytes);
      const first = table * geometry.l2Entries;
      const count = Math.min(geometry.l2Entries, dataClusters - first);
      for (let i = 0; i < count; i++) {
        const at = i * geometry.entrySize;
        putCopied(view, at, dataOffset + (first + i) * clusterSize);
        if (geometry.subclusters > 1) view.setUint32(at + 12, 0xffff_ffff);
      }
      yield { offset: l2At + table * clusterSize, bytes };
    }
  }
  return { header, dataOffset, end: used * clusterSize, segments };
}

/** A table of offsets of clusters that follow one another, a cluster of it at a time. */
function* tableSegments(
  offset: number,
  entries: number,
  firstTarget: number,
  clusterSize: number,
  put: (view: DataView, at: number, target: number) => void,
): Generator<Segment> {
  const perCluster = clusterSize / 8;
  for (let first = 0; first < entries; first += perCluster) {
    const bytes = new Uint8Array(clusterSize);
    const view = viewOf(bytes);
    const count = Math.min(perCluster, entries - first);
    for (let i = 0; i < count; i++) put(view, 8 * i, firstTarget + (first + i) * clusterSize);
    yield { offset: offset + first * 8, bytes };
  }
}

function newHeader(path: string, options: CreateOptions): Header {
  const refuse = (message: string): StorageError => new StorageError(path, 'EINVAL', message);
  const { version = 3, clusterSize = 65536, refcountBits = 16, extendedL2 = false } = options;
  const { compression = 'zlib', lazyRefcounts = false, backingFile, backingFormat } = options;
  const clusterBits = Math.log2(clusterSize);
  if (!Number.isInteger(clusterBits) || clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS)
    throw refuse(`the cluster size must be a power of two from 512 bytes to 2 MiB, not ${clusterSize}`);
  const refcountOrder = Math.log2(refcountBits);
  if (!Number.isInteger(refcountOrder) || refcountOrder < 0 || refcountOrder > 6)
    throw refuse(`the refcount width must be a power of two from 1 to 64 bits, not ${refcountBits}`);
  if (version === 2 && (extendedL2 || lazyRefcounts || compression !== 'zlib' || refcountBits !== 16))
    throw refuse(
      'extended L2 entries, lazy refcounts, zstd and refcount widths other than 16 need version 3',
    );
  if (extendedL2 && clusterBits < MIN_EXTENDED_CLUSTER_BITS)
    throw refuse('extended L2 entries need clusters of at least 16 KiB');
  if ((backingFile === undefined) !== (backingFormat === undefined))
    throw refuse('a backing file and its format go together');
  if (backingFile !== undefined && (options.preallocation ?? 'off') !== 'off')
    throw refuse('an image with a backing file cannot be preallocated: it would hide all of it');
  const geometry = geometryOf(version, clusterBits, refcountOrder, extendedL2);
  if (!Number.isSafeInteger(options.size) || options.size < 0 || options.size > maxDiskSize(geometry))
    throw refuse(`a disk of ${options.size} bytes is not possible with clusters of ${clusterSize} bytes`);
  const size = alignUp(options.size, SECTOR);
  return {
    geometry,
    size,
    l1Offset: 0,
    l1Entries: Math.max(1, l1EntriesFor(geometry, size)),
    refcountTableOffset: 0,
    refcountTableClusters: 0,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible:
      (compression === 'zlib' ? 0 : INCOMPATIBLE.compressionType) |
      (extendedL2 ? INCOMPATIBLE.extendedL2 : 0),
    compatible: lazyRefcounts ? BigInt(COMPATIBLE.lazyRefcounts) : 0n,
    autoclear: 0n,
    compression,
    backingFile,
    backingFormat,
    // The names last: what changes later stays in the first sector.
    extensions: [
      ...(options.extensions ?? []),
      ...(version === 3 && clusterSize >= 4096 ? [featureNameTable()] : []),
    ],
    furtherFields: new Uint8Array(0),
  };
}

/** "Feature name table": lets software that lacks a feature tell its user which. */
function featureNameTable(): HeaderExtension {
  const names: readonly [type: number, bit: number, name: string][] = [
    [0, 0, 'dirty bit'],
    [0, 1, 'corrupt bit'],
    [0, 3, 'compression type'],
    [0, 4, 'extended L2 entries'],
    [1, 0, 'lazy refcounts'],
  ];
  const data = new Uint8Array(48 * names.length);
  for (const [i, [type, bit, name]] of names.entries()) {
    data[48 * i] = type;
    data[48 * i + 1] = bit;
    data.set(Buffer.from(name), 48 * i + 2);
  }
  return { type: EXTENSION.featureNames, data };
}

/** What a new file may be in the place of. */
export type Replace = {
  /** An image of the same name, which nobody uses, may be lost. Default false: that is an error */
  readonly replace?: boolean;
};

/**
 * Makes an image in a new file, which has its name only when it is complete and on stable storage.
 * @param progress told of the share that is done, 0 to 1, where it takes long
 * @throws StorageError; no file is left then
 */
export async function createQcow2(
  path: string,
  options: CreateOptions & Replace,
  progress?: (share: number) => void,
): Promise<void> {
  const file = new NewFile(path, options.replace);
  try {
    await writeQcow2(file, options, progress);
    file.publish();
  } catch (error) {
    throw file.errorOf(error);
  } finally {
    file.discard();
  }
}

/** The empty image, in a file that is not published yet. */
export async function writeQcow2(
  file: NewFile,
  options: CreateOptions,
  progress?: (share: number) => void,
): Promise<void> {
  const layout = layoutImage(file.path, options);
  for (const { offset, bytes } of layout.segments()) writeAll(file.fd, withoutZerosAtEnd(bytes), offset);
  ftruncateSync(file.fd, layout.end);
  await fillSpace(file, layout.dataOffset, layout.end, options.preallocation ?? 'off', progress);
}

/** Most of a new table is zeros, and what is not written of a new file takes no space. */
function withoutZerosAtEnd(bytes: Uint8Array): Uint8Array {
  return bytes.subarray(0, bytes.findLastIndex((byte) => byte !== 0) + 1);
}
