/** Space of a new file that is set aside before anybody writes there. */
import { writeSync } from 'node:fs';
import { allocateSpace } from './qcow2/allocate-space.ts';
import type { NewFile } from './new-file.ts';

/**
 * What is set aside when an image is made.
 * - `off`: nothing; it grows as the guest writes
 * - `metadata`: the tables map all of the disk; the file is as large as the disk, with holes
 * - `falloc`: and the host reserves the space
 * - `full`: and zeros are written to it
 */
export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

const PIECE = 2 ** 20;

/** @throws StorageError, or the host's error */
export async function fillSpace(
  file: NewFile,
  from: number,
  to: number,
  how: Preallocation,
  progress?: (share: number) => void,
): Promise<void> {
  if (how === 'falloc') await allocateSpace(file.workPath, from, to - from);
  if (how !== 'full') return;
  const zeros = new Uint8Array(PIECE);
  for (let at = from; at < to; at += PIECE) {
    writeAll(file.fd, zeros.subarray(0, Math.min(PIECE, to - at)), at);
    progress?.((at - from) / (to - from));
    // Other work of this process has its turn.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** @throws the host's error */
export function writeAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length;) {
    done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
  }
}
