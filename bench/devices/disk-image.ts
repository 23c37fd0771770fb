import { open, type FileHandle } from 'node:fs/promises';
import { blockStamp } from '../../test/guests/disk-load.ts';

const BLOCK = 4096;
const CHUNK = 1024 * 1024;

/**
 * Writes a disk image of `size` bytes, whole MiB, in which each block of 4 KiB begins with its stamp, so that the
 * guest can tell what it reads. No holes: those would cost less than data.
 */
export async function writeStampedImage(path: string, size: number): Promise<void> {
  const file: FileHandle = await open(path, 'w');
  try {
    const chunk = new DataView(new ArrayBuffer(CHUNK));
    for (let offset = 0; offset < size; offset += CHUNK) {
      for (let at = 0; at < CHUNK; at += BLOCK) {
        chunk.setBigUint64(at, blockStamp((offset + at) / BLOCK), true);
      }
      await file.write(chunk, 0, CHUNK, offset);
    }
    // What is dirty would be written back while the first contender runs.
    await file.datasync();
  } finally {
    await file.close();
  }
}
