/** Requests of virtio-blk as a driver makes them (VIRTIO 1.2, 5.2.6), and devices on real files to send them to. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockDevice, type BlockOptions } from '../../../src/devices/block/device.ts';
import { GuestBuffers } from '../../../src/kvm/guest-buffers.ts';
import { IoRing, type IoEngine } from '../../../src/kvm/io-ring.ts';
import type { Disk, DiskCache } from '../../../src/storage/disk.ts';
import { openRaw } from '../../../src/storage/raw.ts';
import type { Buffer as Piece } from './driver-queue.ts';

export const T = {
  in: 0,
  out: 1,
  flush: 4,
  getId: 8,
  getLifetime: 10,
  discard: 11,
  writeZeroes: 13,
} as const;
export const S = { ok: 0, ioError: 1, unsupported: 2 } as const;
export const F = {
  readOnly: 5,
  blkSize: 6,
  flush: 9,
  topology: 10,
  configWce: 11,
  mq: 12,
  discard: 13,
  writeZeroes: 14,
} as const;

export type Range = { readonly sector: number | bigint; readonly sectors: number; readonly flags?: number };

export function header(type: number, sector: number | bigint = 0): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  // a hint of the driver's, or what it left there
  view.setUint32(4, 0xdead_beef, true);
  view.setBigUint64(8, BigInt(sector), true);
  return bytes;
}

export function ranges(list: readonly Range[]): Uint8Array {
  const bytes = new Uint8Array(16 * list.length);
  const view = new DataView(bytes.buffer);
  list.forEach(({ sector, sectors, flags = 0 }, i) => {
    view.setBigUint64(16 * i, BigInt(sector), true);
    view.setUint32(16 * i + 8, sectors, true);
    view.setUint32(16 * i + 12, flags, true);
  });
  return bytes;
}

export const read = (sector: number | bigint, length: number): Piece[] => [
  { bytes: header(T.in, sector) },
  ...(length > 0 ? [{ room: length }] : []),
  { room: 1 },
];

export const write = (sector: number | bigint, ...data: readonly Uint8Array[]): Piece[] => [
  { bytes: header(T.out, sector) },
  ...data.map((bytes) => ({ bytes })),
  { room: 1 },
];

export const simple = (type: number): Piece[] => [{ bytes: header(type) }, { room: 1 }];

export const ranged = (type: number, ...list: readonly Range[]): Piece[] => [
  { bytes: header(type) },
  { bytes: ranges(list) },
  { room: 1 },
];

const byteAt = (at: number): number => (at * 31 + (at >>> 8) * 17) & 0xff;

/** Bytes that tell their place on the disk. */
export function content(sector: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = byteAt(512 * sector + i);
  return bytes;
}

/** The untouched disk, which nearly every test begins with. */
const fresh = new Map<number, Uint8Array>();

export type BlockFixtureOptions = Partial<Omit<BlockOptions, 'disk' | 'buffers' | 'reap'>> & {
  readonly engine?: IoEngine;
  readonly cache?: DiskCache;
  readonly readOnly?: boolean;
  /** in bytes; default 256 KiB */
  readonly size?: number;
  /** default a new file with {@link content} */
  readonly path?: string;
  /** whether completions are polled for too; default not */
  readonly polls?: boolean;
};

export type BlockFixture = {
  readonly device: BlockDevice;
  readonly disk: Disk;
  readonly ring: IoRing;
  readonly path: string;
  readonly lines: string[];
  close(): Promise<void>;
};

/** A device on a raw disk in a file of its own. It does not poll unless `poll` says so. */
export function blockFixture(options: BlockFixtureOptions = {}): BlockFixture {
  const { engine, cache = 'writeback', readOnly = false, size = 1 << 18, polls = false, ...rest } = options;
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-block-'));
  const path = options.path ?? join(folder, 'disk.raw');
  if (options.path === undefined) {
    const bytes = fresh.get(size) ?? content(0, size);
    fresh.set(size, bytes);
    writeFileSync(path, bytes);
  }
  const ring = new IoRing(engine === undefined ? {} : { engine });
  const disk = openRaw(ring, path, { readOnly, cache });
  const lines: string[] = [];
  const device = new BlockDevice({
    name: 'block0',
    disk,
    buffers: (memory) => new GuestBuffers(ring, memory),
    log: (line) => lines.push(line),
    poll: { limit: 0 },
    ...rest,
    ...(polls && { reap: () => ring.reap() }),
  });
  return {
    device,
    disk,
    ring,
    path,
    lines,
    close: async () => {
      device.close();
      await disk.close();
      ring.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
