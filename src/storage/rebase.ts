import { statSync, type Stats } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import type { IoRing } from '../kvm/io-ring.ts';
import { readPieces } from './copy.ts';
import { StorageError } from './disk.ts';
import { whileLocked } from './file-lock.ts';
import { openError } from './open-error.ts';
import { openDisk } from './open.ts';
import { PromisedDisk, type DiskBuffer } from './promised-disk.ts';
import {
  checkUnchanged,
  openQcow2,
  resolveChain,
  type ChainPolicy,
  type ImageFormat,
  type Layer,
} from './qcow2/chain.ts';
import { extentAt } from './qcow2/map.ts';
import { setBacking } from './qcow2/rewrite-header.ts';

export type NewBacking = {
  /** as it is to be in the header: absolute, or relative to the overlay's folder */
  readonly name: string;
  readonly format: ImageFormat;
};

export type RebaseOptions = ChainPolicy & {
  /**
   * Only writes the name down: where the new file has the same contents, at another place or in another format.
   * Default false
   */
  readonly unsafe?: boolean;
  readonly progress?: (share: number) => void;
};

/**
 * Puts an overlay on another backing file, or on none. It reads as before: wherever the old and the new one differ,
 * the overlay gets what the old one has. At whatever point this ends early, it reads as before.
 * @throws StorageError
 */
export async function rebaseOverlay(
  ring: IoRing,
  path: string,
  backing: NewBacking | undefined,
  options: RebaseOptions = {},
): Promise<void> {
  const place = backing === undefined ? undefined : placeOf(path, backing.name);
  const old = options.unsafe === true ? [] : resolveChain(ring, path, 'qcow2', options);
  const below = backing === undefined ? [] : resolveChain(ring, place!, backing.format, options);
  checkLoop(path, below);
  const uses = [...old.slice(1), ...below].map((layer) => [layer.path, 'read'] as const);
  await whileLocked([[path, 'write'], ...uses], async () => {
    if (options.unsafe !== true) {
      checkUnchanged(old, resolveChain(ring, path, 'qcow2', options));
      await copyUp(ring, path, below[0], options);
    }
    setBacking(ring, path, backing, place);
  });
}

async function copyUp(
  ring: IoRing,
  path: string,
  newBacking: Layer | undefined,
  options: RebaseOptions,
): Promise<void> {
  const overlay = new PromisedDisk(await openQcow2(ring, { ...options, path, lock: false }), ring);
  try {
    const below =
      newBacking === undefined
        ? undefined
        : new PromisedDisk(
            await openDisk(ring, {
              path: newBacking.path,
              format: newBacking.format,
              readOnly: true,
              backing: options,
              lock: false,
            }),
            ring,
          );
    try {
      await copyDifferences(overlay, below, options.progress);
      await overlay.flush();
    } finally {
      await below?.close();
    }
  } finally {
    await overlay.close();
  }
}

/** @throws StorageError where the overlay would be below itself */
function checkLoop(path: string, below: readonly Layer[]): void {
  const { dev, ino } = statOf(path);
  if (below.every(({ identity }) => identity !== `${dev}:${ino}`)) return;
  const chain = [path, ...below.map((layer) => layer.path)].join(' <- ');
  throw new StorageError(
    path,
    'ELOOP',
    `cannot be put on itself (chain: ${chain})`,
    'choose another backing file',
  );
}

function statOf(path: string): Stats {
  try {
    return statSync(path);
  } catch (error) {
    throw openError(path, error);
  }
}

const placeOf = (path: string, name: string): string => (isAbsolute(name) ? name : join(dirname(path), name));

async function copyDifferences(
  overlay: PromisedDisk,
  below: PromisedDisk | undefined,
  progress: ((share: number) => void) | undefined,
): Promise<void> {
  const beside = new Map<DiskBuffer, DiskBuffer>();
  await readPieces(
    overlay,
    async (offset, buffer, length, knownZero) => {
      if (knownZero) buffer.bytes.fill(0, 0, length);
      const other = beside.get(buffer) ?? overlay.buffer(buffer.bytes.length);
      beside.set(buffer, other);
      const inBelow = below === undefined ? 0 : Math.max(0, Math.min(length, below.disk.size - offset));
      if (inBelow > 0) await below!.read(offset, other, inBelow);
      other.bytes.fill(0, inBelow, length);
      for (let at = offset; at < offset + length;) {
        const extent = await extentAt(overlay.disk, at, offset + length);
        const from = at - offset;
        const to = from + extent.length;
        at += extent.length;
        if (extent.depth === 0 && extent.kind !== 'none') continue;
        if (Buffer.compare(buffer.bytes.subarray(from, to), other.bytes.subarray(from, to)) === 0) continue;
        await overlay.write(offset + from, buffer, extent.length, from);
      }
    },
    { ...(progress && { progress }) },
  );
}
