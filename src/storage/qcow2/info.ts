import { statSync } from 'node:fs';
import type { IoRing } from '../../kvm/io-ring.ts';
import { openError } from '../open-error.ts';
import type { ImageFormat } from './chain.ts';
import { AUTOCLEAR, EXTENSION, INCOMPATIBLE, type Compression } from './format.ts';
import { isLazy, viewOf, type Header } from './header.ts';
import { RingFile } from './host-file.ts';
import { readHeader } from './open.ts';
import { readSnapshots, type Snapshot } from './snapshots.ts';

export type ImageInfo = {
  readonly path: string;
  readonly format: ImageFormat;
  /** of the disk, in bytes */
  readonly virtualSize: number;
  /** of the file, in bytes */
  readonly fileSize: number;
  /** what the file takes on the host, in bytes */
  readonly allocatedSize: number;
  readonly qcow2?: Qcow2Info;
};

export type Qcow2Info = {
  readonly version: 2 | 3;
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly extendedL2: boolean;
  readonly compression: Compression;
  readonly lazyRefcounts: boolean;
  readonly dirty: boolean;
  readonly corrupt: boolean;
  readonly backingFile?: string;
  readonly backingFormat?: string;
  readonly snapshots: readonly Snapshot[];
  /** dirty bitmaps that are valid */
  readonly bitmaps: number;
};

/** What an image says of itself; its backing files are not looked at. @throws StorageError */
export function imageInfo(ring: IoRing, path: string, format: ImageFormat): ImageInfo {
  const { size, blocks } = statOf(path);
  const common = { path, format, fileSize: size, allocatedSize: blocks * 512 };
  if (format === 'raw') return { ...common, virtualSize: Math.ceil(size / 512) * 512 };
  const file = new RingFile(ring, path, true);
  try {
    const { header } = readHeader(file);
    const snapshots = header.snapshotCount === 0 ? [] : readSnapshots(file, header).snapshots;
    return { ...common, virtualSize: header.size, qcow2: qcow2Info(header, snapshots) };
  } finally {
    file.close();
  }
}

function statOf(path: string): { size: number; blocks: number } {
  try {
    return statSync(path);
  } catch (error) {
    throw openError(path, error);
  }
}

function qcow2Info(header: Header, snapshots: readonly Snapshot[]): Qcow2Info {
  const { geometry, incompatible, backingFile, backingFormat } = header;
  return {
    version: geometry.version,
    clusterSize: geometry.clusterSize,
    refcountBits: geometry.refcountBits,
    extendedL2: geometry.subclusters > 1,
    compression: header.compression,
    lazyRefcounts: isLazy(header),
    dirty: (incompatible & INCOMPATIBLE.dirty) !== 0,
    corrupt: (incompatible & INCOMPATIBLE.corrupt) !== 0,
    ...(backingFile !== undefined && { backingFile }),
    ...(backingFormat !== undefined && { backingFormat }),
    snapshots,
    bitmaps: bitmapsOf(header),
  };
}

function bitmapsOf(header: Header): number {
  if ((Number(header.autoclear & 3n) & AUTOCLEAR.bitmaps) === 0) return 0;
  const data = header.extensions.find(({ type }) => type === EXTENSION.bitmaps)?.data;
  return data === undefined || data.length < 4 ? 0 : viewOf(data).getUint32(0);
}
