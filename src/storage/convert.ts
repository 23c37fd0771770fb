import { closeSync, fsyncSync, openSync, renameSync, unlinkSync, ftruncateSync } from 'node:fs';
import { dirname } from 'node:path';
import type { IoRing } from '../kvm/io-ring.ts';
import { StorageError, type Disk } from './disk.ts';
import { isZero, readPieces, writeSparsely } from './copy.ts';
import { openDisk } from './open.ts';
import { PromisedDisk } from './promised-disk.ts';
import { CompressedWriter } from './qcow2/compressed-writer.ts';
import { createQcow2, type CreateOptions } from './qcow2/create.ts';
import { RingFile } from './qcow2/host-file.ts';
import { openImage } from './qcow2/open.ts';

export type ConvertTarget =
  | { readonly format: 'raw'; readonly path: string }
  | ({
      readonly format: 'qcow2';
      readonly path: string;
      /** clusters that get smaller by it are compressed; default false */
      readonly compressed?: boolean;
    } & Omit<CreateOptions, 'size' | 'backingFile' | 'backingFormat'>);

/**
 * Copies a disk with all its layers into a new file, which has its name only when it is complete and on stable
 * storage. The source is closed.
 * @throws StorageError; no file is left then
 */
export async function convertDisk(
  ring: IoRing,
  source: Disk,
  target: ConvertTarget,
  progress?: (share: number) => void,
): Promise<void> {
  const temporary = `${target.path}.${process.pid}.part`;
  const from = new PromisedDisk(source, ring);
  try {
    if (target.format === 'raw') await toRaw(ring, from, temporary, progress);
    else if (target.compressed === true) await toCompressed(ring, from, temporary, target, progress);
    else await toQcow2(ring, from, temporary, target, progress);
    renameSync(temporary, target.path);
    syncPath(dirname(target.path));
  } catch (error) {
    removeQuietly(temporary);
    throw error;
  } finally {
    await from.close();
  }
}

type Progress = ((share: number) => void) | undefined;

async function toRaw(ring: IoRing, from: PromisedDisk, path: string, progress: Progress): Promise<void> {
  const fd = openNew(path);
  ftruncateSync(fd, from.disk.size);
  closeSync(fd);
  await copyTo(from, await openDisk(ring, { path, format: 'raw' }), ring, progress);
}

async function toQcow2(
  ring: IoRing,
  from: PromisedDisk,
  path: string,
  options: ConvertTarget & { format: 'qcow2' },
  progress: Progress,
): Promise<void> {
  await createQcow2(path, { ...options, size: from.disk.size });
  await copyTo(from, await openDisk(ring, { path, format: 'qcow2' }), ring, progress);
}

async function copyTo(from: PromisedDisk, target: Disk, ring: IoRing, progress: Progress): Promise<void> {
  const to = new PromisedDisk(target, ring);
  try {
    await readPieces(
      from,
      async (offset, buffer, length, knownZero) => {
        if (!knownZero) await writeSparsely(to, offset, buffer, length);
      },
      { ...(progress && { progress }) },
    );
    await to.flush();
  } finally {
    await to.close();
  }
}

async function toCompressed(
  ring: IoRing,
  from: PromisedDisk,
  path: string,
  options: ConvertTarget & { format: 'qcow2' },
  progress: Progress,
): Promise<void> {
  await createQcow2(path, { ...options, size: from.disk.size });
  const disk = await openImage(new RingFile(ring, path, false), undefined);
  try {
    const writer = new CompressedWriter(disk.parts);
    const { clusterSize } = disk.parts.image.geometry;
    const cluster = new Uint8Array(clusterSize);
    let filled = 0;
    const put = async (offset: number): Promise<void> => {
      cluster.fill(0, filled);
      if (!isZero(cluster)) await disk.parts.image.complete(writer.write(offset, cluster));
      filled = 0;
    };
    await readPieces(
      from,
      async (offset, buffer, length, knownZero) => {
        if (knownZero) buffer.bytes.fill(0, 0, length);
        for (let at = 0; at < length;) {
          const part = Math.min(clusterSize - filled, length - at);
          cluster.set(buffer.bytes.subarray(at, at + part), filled);
          filled += part;
          at += part;
          if (filled === clusterSize) await put(offset + at - clusterSize);
        }
      },
      { ordered: true, ...(progress && { progress }) },
    );
    if (filled > 0) await put(from.disk.size - filled);
    writer.finish();
  } catch (error) {
    if (error instanceof StorageError) throw error;
    throw new StorageError(path, 'EIO', error instanceof Error ? error.message : String(error));
  } finally {
    await disk.close();
  }
  syncPath(path);
}

function openNew(path: string): number {
  try {
    return openSync(path, 'wx', 0o644);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'EIO';
    throw new StorageError(path, code, `cannot be created: ${code}`);
  }
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It was not made.
  }
}
