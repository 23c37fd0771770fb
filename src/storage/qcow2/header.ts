/** The header with its extensions: parsed with every field checked, and made again with unknown parts kept. */
import { StorageError } from '../disk.ts';
import {
  COMPATIBLE,
  COMPRESSION,
  EXTENSION,
  INCOMPATIBLE,
  MAGIC,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MAX_REFCOUNT_TABLE_BYTES,
  MAX_SNAPSHOTS,
  MIN_CLUSTER_BITS,
  MIN_EXTENDED_CLUSTER_BITS,
  SECTOR,
  alignUp,
  toHex,
  type Compression,
} from './format.ts';
import { geometryOf, l1EntriesFor, type Geometry } from './geometry.ts';

export type HeaderExtension = { readonly type: number; readonly data: Uint8Array };

/** Mutable where an image in use changes it. Offsets and sizes in bytes. */
export type Header = {
  readonly geometry: Geometry;
  size: number;
  l1Offset: number;
  l1Entries: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  snapshotCount: number;
  snapshotsOffset: number;
  incompatible: number;
  compatible: bigint;
  autoclear: bigint;
  readonly compression: Compression;
  backingFile: string | undefined;
  backingFormat: string | undefined;
  /** all but the backing format, in their order */
  extensions: HeaderExtension[];
  /** fields behind those known here, to be written back as they were */
  readonly furtherFields: Uint8Array;
};

export const V2_LENGTH = 72;
export const V3_LENGTH = 104;
/** with the compression type and its padding */
export const V3_LENGTH_TODAY = 112;

/** How much of a file {@link parseHeader} must be given, by its first sector: all of the first cluster. */
export function headerBytes(sector: Uint8Array): number {
  if (sector.length < V2_LENGTH) return SECTOR;
  const clusterBits = viewOf(sector).getUint32(20);
  return clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS ? SECTOR : 2 ** clusterBits;
}

const KNOWN_INCOMPATIBLE =
  INCOMPATIBLE.dirty | INCOMPATIBLE.corrupt | INCOMPATIBLE.compressionType | INCOMPATIBLE.extendedL2;

/** Whether the bytes begin as a qcow2 image does. For messages only: no format is ever guessed. */
export const looksLikeQcow2 = (bytes: Uint8Array): boolean =>
  bytes.length >= 8 && viewOf(bytes).getUint32(0) === MAGIC;

export const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A 64-bit number; above 2^53 it comes out rounded, which no later check lets pass. */
export const readU64 = (view: DataView, at: number): number =>
  view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);

export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}

/**
 * @param bytes the image's first cluster, or the whole of a shorter file
 * @throws StorageError where the image is damaged or needs what is not supported
 */
export function parseHeader(path: string, bytes: Uint8Array): Header {
  const bad = (message: string): StorageError => new StorageError(path, 'EBADIMAGE', message);
  const unsupported = (message: string, hint?: string): StorageError =>
    new StorageError(path, 'ENOTSUP', message, hint);

  if (bytes.length < V2_LENGTH || !looksLikeQcow2(bytes)) throw bad('not a qcow2 image');
  const view = viewOf(bytes);
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw unsupported(`qcow2 version ${version} is not supported`);
  const isV3 = version === 3;
  if (isV3 && bytes.length < V3_LENGTH) throw bad('the header is cut off');

  const clusterBits = view.getUint32(20);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS)
    throw bad(`the cluster size of 2^${clusterBits} bytes is not between 512 bytes and 2 MiB`);
  const clusterSize = 2 ** clusterBits;

  const headerLength = isV3 ? view.getUint32(100) : V2_LENGTH;
  if (headerLength < (isV3 ? V3_LENGTH : V2_LENGTH) || headerLength > clusterSize || headerLength % 8 !== 0)
    throw bad(`the header's length is ${headerLength} bytes`);
  if (headerLength > bytes.length) throw bad('the header is cut off');

  const extensions = parseExtensions(bytes.subarray(0, clusterSize), headerLength, bad);
  const incompatible = isV3 ? view.getUint32(76) : 0;
  checkFeatures(view, isV3, incompatible, extensions, unsupported);

  const extendedL2 = (incompatible & INCOMPATIBLE.extendedL2) !== 0;
  if (extendedL2 && clusterBits < MIN_EXTENDED_CLUSTER_BITS)
    throw bad('extended L2 entries need clusters of at least 16 KiB');

  const refcountOrder = isV3 ? view.getUint32(96) : 4;
  if (refcountOrder > 6) throw bad(`the refcount width of 2^${refcountOrder} bits is too large`);
  const geometry = geometryOf(version, clusterBits, refcountOrder, extendedL2);

  const backing = parseBackingName(bytes, view, clusterSize, bad);
  const format = extensions.find(({ type }) => type === EXTENSION.backingFormat);
  const header: Header = {
    geometry,
    size: Math.floor(readU64(view, 24) / SECTOR) * SECTOR,
    l1Entries: view.getUint32(36),
    l1Offset: readU64(view, 40),
    refcountTableOffset: readU64(view, 48),
    refcountTableClusters: view.getUint32(56),
    snapshotCount: view.getUint32(60),
    snapshotsOffset: readU64(view, 64),
    incompatible,
    compatible: isV3 ? view.getBigUint64(80) : 0n,
    autoclear: isV3 ? view.getBigUint64(88) : 0n,
    compression: compressionOf(bytes, headerLength, incompatible, bad, unsupported),
    backingFile: backing,
    backingFormat: format === undefined ? undefined : textOf(format.data),
    extensions: extensions.filter(({ type }) => type !== EXTENSION.backingFormat),
    furtherFields: bytes.slice(Math.min(V3_LENGTH_TODAY, headerLength), headerLength),
  };
  checkTables(header, bad);
  return header;
}

const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('utf8');

function parseExtensions(
  cluster: Uint8Array,
  start: number,
  bad: (message: string) => StorageError,
): HeaderExtension[] {
  const view = viewOf(cluster);
  const found: HeaderExtension[] = [];
  // The name of the backing file ends the area where it has no end mark of its own.
  const name = readU64(view, 8);
  const end = name > 0 && name < cluster.length ? name : cluster.length;
  for (let at = start; at + 8 <= end;) {
    const type = view.getUint32(at);
    if (type === EXTENSION.end) break;
    const length = view.getUint32(at + 4);
    if (length > end - at - 8) throw bad(`header extension ${toHex(type)} does not fit its place`);
    found.push({ type, data: cluster.slice(at + 8, at + 8 + length) });
    at += 8 + alignUp(length, 8);
  }
  return found;
}

function checkFeatures(
  view: DataView,
  isV3: boolean,
  incompatible: number,
  extensions: readonly HeaderExtension[],
  unsupported: (message: string, hint?: string) => StorageError,
): void {
  if (view.getUint32(32) !== 0) throw unsupported('the image is encrypted, which is not supported');
  if (!isV3) return;
  if ((incompatible & INCOMPATIBLE.externalData) !== 0) {
    throw unsupported(
      'the image keeps its data in another file (external data file), which is not supported',
      'convert it: `qemu-img convert -O qcow2`',
    );
  }
  const unknown = [];
  const names = featureNames(extensions);
  for (let bit = 0; bit < 64; bit++) {
    const word = bit < 32 ? incompatible & ~KNOWN_INCOMPATIBLE : view.getUint32(72);
    if (((word >>> (bit % 32)) & 1) !== 0) unknown.push(names.get(bit) ?? `bit ${bit}`);
  }
  if (unknown.length > 0) throw unsupported(`the image needs unknown features: ${unknown.join(', ')}`);
}

/** "Feature name table", those of incompatible features */
function featureNames(extensions: readonly HeaderExtension[]): Map<number, string> {
  const names = new Map<number, string>();
  const table = extensions.find(({ type }) => type === EXTENSION.featureNames)?.data;
  for (let at = 0; table !== undefined && at + 48 <= table.length; at += 48) {
    if (table[at] !== 0) continue;
    const name = textOf(table.subarray(at + 2, at + 48)).replace(/\0.*$/s, '');
    if (/^[\x20-\x7e]+$/.test(name)) names.set(table[at + 1]!, name);
  }
  return names;
}

function compressionOf(
  bytes: Uint8Array,
  headerLength: number,
  incompatible: number,
  bad: (message: string) => StorageError,
  unsupported: (message: string) => StorageError,
): Compression {
  const type = headerLength > V3_LENGTH ? bytes[V3_LENGTH]! : COMPRESSION.zlib;
  const flagged = (incompatible & INCOMPATIBLE.compressionType) !== 0;
  if (flagged !== (type !== COMPRESSION.zlib)) throw bad('the compression type and its feature bit disagree');
  if (type === COMPRESSION.zlib) return 'zlib';
  if (type === COMPRESSION.zstd) return 'zstd';
  throw unsupported(`compression type ${type} is not supported`);
}

function parseBackingName(
  bytes: Uint8Array,
  view: DataView,
  clusterSize: number,
  bad: (message: string) => StorageError,
): string | undefined {
  const offset = readU64(view, 8);
  if (offset === 0) return undefined;
  const length = view.getUint32(16);
  if (length > MAX_BACKING_NAME) throw bad('the name of the backing file is too long');
  if (offset + length > Math.min(clusterSize, bytes.length))
    throw bad('the name of the backing file is outside the header');
  if (length === 0) return undefined;
  const name = textOf(bytes.subarray(offset, offset + length));
  if (name.includes('\0')) throw bad('the name of the backing file has a zero byte in it');
  return name;
}

function checkTables(header: Header, bad: (message: string) => StorageError): void {
  const { clusterSize } = header.geometry;
  const aligned = (offset: number): boolean =>
    offset % clusterSize === 0 && offset <= Number.MAX_SAFE_INTEGER / 2;
  if (header.size > Number.MAX_SAFE_INTEGER / 2) throw bad('the disk is too large');
  if (header.l1Entries * 8 > MAX_L1_BYTES) throw bad('the L1 table is too large');
  if (header.l1Entries < l1EntriesFor(header.geometry, header.size))
    throw bad('the L1 table is too small for the disk');
  if (!aligned(header.l1Offset) || (header.l1Offset === 0 && header.l1Entries > 0))
    throw bad(`the L1 table is at ${toHex(header.l1Offset)}`);
  if (!aligned(header.refcountTableOffset) || header.refcountTableOffset === 0)
    throw bad(`the refcount table is at ${toHex(header.refcountTableOffset)}`);
  if (header.refcountTableClusters === 0) throw bad('there is no refcount table');
  if (header.refcountTableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES)
    throw bad('the refcount table is too large');
  if (header.snapshotCount > MAX_SNAPSHOTS) throw bad('there are too many snapshots');
  if (header.snapshotCount > 0 && (!aligned(header.snapshotsOffset) || header.snapshotsOffset === 0))
    throw bad(`the snapshot table is at ${toHex(header.snapshotsOffset)}`);
}

/**
 * The first cluster of the image with this header, zeros behind it.
 * @param avoid where the name of the backing file is better not put
 * @throws StorageError where the extensions and the name do not fit one cluster
 */
export function encodeHeader(
  path: string,
  header: Header,
  avoid?: { readonly offset: number; readonly length: number },
): Uint8Array {
  const { geometry } = header;
  const isV3 = geometry.version === 3;
  const bytes = new Uint8Array(geometry.clusterSize);
  const view = viewOf(bytes);
  let at = isV3 ? V3_LENGTH_TODAY + header.furtherFields.length : V2_LENGTH;
  view.setUint32(0, MAGIC);
  view.setUint32(4, geometry.version);
  view.setUint32(20, geometry.clusterBits);
  writeU64(view, 24, header.size);
  view.setUint32(36, header.l1Entries);
  writeU64(view, 40, header.l1Offset);
  writeU64(view, 48, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  view.setUint32(60, header.snapshotCount);
  writeU64(view, 64, header.snapshotsOffset);
  if (isV3) {
    view.setUint32(76, header.incompatible);
    view.setBigUint64(80, header.compatible);
    view.setBigUint64(88, header.autoclear);
    view.setUint32(96, Math.log2(geometry.refcountBits));
    view.setUint32(100, at);
    bytes[V3_LENGTH] = COMPRESSION[header.compression];
    bytes.set(header.furtherFields, V3_LENGTH_TODAY);
  }
  const need = (length: number): void => {
    if (at + length > bytes.length)
      throw new StorageError(
        path,
        'ENAMETOOLONG',
        `the name of the backing file and the header extensions do not fit a cluster of ${bytes.length} bytes`,
        'use larger clusters or a shorter name',
      );
  };
  const { backingFile, backingFormat } = header;
  const format =
    backingFormat === undefined ? [] : [{ type: EXTENSION.backingFormat, data: Buffer.from(backingFormat) }];
  for (const { type, data } of [...format, ...header.extensions]) {
    need(8 + alignUp(data.length, 8));
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + 8);
    at += 8 + alignUp(data.length, 8);
  }
  need(8);
  at += 8; // the end mark, all zeros
  if (backingFile !== undefined) {
    const name = Buffer.from(backingFile);
    if (name.length > MAX_BACKING_NAME)
      throw new StorageError(path, 'ENAMETOOLONG', 'the name of the backing file is too long');
    need(name.length);
    const hits = avoid !== undefined && at < avoid.offset + avoid.length && avoid.offset < at + name.length;
    if (hits && avoid.offset + avoid.length + name.length <= bytes.length) at = avoid.offset + avoid.length;
    bytes.set(name, at);
    writeU64(view, 8, at);
    view.setUint32(16, name.length);
  }
  return bytes;
}

export const isLazy = (header: Header): boolean =>
  header.geometry.version === 3 && (Number(header.compatible & 1n) & COMPATIBLE.lazyRefcounts) !== 0;
