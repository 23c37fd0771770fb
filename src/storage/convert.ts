import type { IoRing } from '../kvm/io-ring.ts';
import { StorageError, type Disk } from './disk.ts';
import { isZero, readPieces, writeSparsely } from './copy.ts';
import { writeRaw, type RawCreateOptions } from './create-raw.ts';
import { NewFile } from './new-file.ts';
import { openDisk, type DiskFormat } from './open.ts';
import { PromisedDisk } from './promised-disk.ts';
import { CompressedWriter } from './qcow2/compressed-writer.ts';
import { writeQcow2, type CreateOptions, type Replace } from './qcow2/create.ts';
import { RingFile } from './qcow2/host-file.ts';
import { openImage } from './qcow2/open.ts';

export type ConvertTarget = Replace &
  (
    | ({ readonly format: 'raw'; readonly path: string } & Pick<RawCreateOptions, 'preallocation'>)
    | ({
        readonly format: 'qcow2';
        readonly path: string;
        /** clusters that get smaller by it are compressed; default false */
        readonly compressed?: boolean;
      } & Omit<CreateOptions, 'size' | 'backingFile' | 'backingFormat'>)
  );

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
  const from = new PromisedDisk(source, ring);
  let file: NewFile | undefined;
  try {
    const { size } = source;
    file = new NewFile(target.path, target.replace);
    if (target.format === 'raw') {
      await writeRaw(file, { ...target, size });
      await copyTo(from, file, 'raw', ring, progress);
    } else {
      await writeQcow2(file, { ...target, size });
      if (target.compressed === true) await copyCompressed(ring, from, file, progress);
      else await copyTo(from, file, 'qcow2', ring, progress);
    }
    file.publish();
  } catch (error) {
    throw file === undefined ? error : file.errorOf(error);
  } finally {
    file?.discard();
    await from.close();
  }
}

type Progress = ((share: number) => void) | undefined;

async function copyTo(
  from: PromisedDisk,
  file: NewFile,
  format: DiskFormat,
  ring: IoRing,
  progress: Progress,
): Promise<void> {
  // Nobody else can know the file yet: no lock.
  const target = await openDisk(ring, { path: file.workPath, format, lock: false });
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

async function copyCompressed(
  ring: IoRing,
  from: PromisedDisk,
  file: NewFile,
  progress: Progress,
): Promise<void> {
  const disk = await openImage(new RingFile(ring, file.workPath, false), undefined);
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
    throw new StorageError(file.path, 'EIO', error instanceof Error ? error.message : String(error));
  } finally {
    await disk.close();
  }
}
