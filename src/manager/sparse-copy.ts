/** Copies of large files: holes stay holes, and where the file system can, both share what they have. */
import { constants } from 'node:fs';
import { copyFile, open, rm, type FileHandle } from 'node:fs/promises';

import { nextData, nextHole } from '../kvm/host-file.ts';

const PIECE = 2 ** 20;

/**
 * Copies a file; the copy is new, for its owner only, and on stable storage.
 * @throws what the system says; something of the copy may be there then
 */
export async function copySparsely(
  from: string,
  to: string,
  onProgress?: (share: number) => void,
): Promise<void> {
  if (await cloned(from, to)) return;
  const source = await open(from, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const target = await open(to, 'wx', 0o600);
    try {
      await copyData(source, target, onProgress);
      await target.sync();
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

/** Btrfs and XFS let two files share their blocks until one of them changes. */
async function cloned(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
    const file = await open(to, 'r');
    await file.sync().finally(() => file.close());
    return true;
  } catch {
    await rm(to, { force: true });
    return false;
  }
}

async function copyData(
  source: FileHandle,
  target: FileHandle,
  onProgress: ((share: number) => void) | undefined,
): Promise<void> {
  const { size } = await source.stat();
  await target.truncate(size);
  const buffer = Buffer.alloc(PIECE);
  for (let at = 0; at < size;) {
    const start = nextData(source.fd, at);
    if (start === undefined || start >= size) break;
    const end = Math.min(nextHole(source.fd, start) ?? size, size);
    for (at = start; at < end;) {
      const { bytesRead } = await source.read(buffer, 0, Math.min(PIECE, end - at), at);
      if (bytesRead === 0) throw new Error('the file has become shorter while it was read');
      for (let done = 0; done < bytesRead;)
        done += (await target.write(buffer, done, bytesRead - done, at + done)).bytesWritten;
      at += bytesRead;
      onProgress?.(at / size);
    }
  }
  onProgress?.(1);
}
