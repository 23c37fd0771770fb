import { open } from 'node:fs/promises';

import { looksLikeQcow2 } from '../../storage/open.ts';
import { diskInfo } from '../../storage/tools.ts';
import { ImageError } from './errors.ts';

/**
 * Looks whether a file can be the disk of an image: it has to stand for itself, as others that it names would be read
 * in its stead.
 * @param shownAs what errors call it
 * @returns the size of the disk in bytes
 * @throws ImageError (EFORMAT), StorageError
 */
export async function checkDisk(path: string, format: 'qcow2' | 'raw', shownAs: string): Promise<number> {
  if (format === 'raw') {
    if (looksLikeQcow2(path)) {
      throw new ImageError('EFORMAT', `${shownAs} is said to be raw, and begins like a qcow2 image`, {
        hint: 'say --format qcow2, or for an entry in config.ini `format = qcow2`',
      });
    }
    const packing = await packingOf(path);
    if (packing !== undefined)
      throw new ImageError('EFORMAT', `${shownAs} is packed (${packing})`, { hint: 'unpack it first' });
  } else if (!looksLikeQcow2(path)) {
    throw new ImageError('EFORMAT', `${shownAs} is said to be qcow2, and does not begin like that`);
  }
  const [{ virtualSize, qcow2 }] = await diskInfo({ path, format });
  if (qcow2?.backingFile !== undefined) {
    throw new ImageError('EFORMAT', `${shownAs} is an overlay over another file (${qcow2.backingFile})`, {
      hint: '`tsvm disk convert` makes one image of both',
    });
  }
  if (qcow2?.dirty === true || qcow2?.corrupt === true) {
    throw new ImageError('EFORMAT', `${shownAs} was not closed, or is damaged`, {
      hint: '`tsvm disk check --repair` may mend it',
    });
  }
  if (virtualSize === 0) throw new ImageError('EFORMAT', `${shownAs} is empty`);
  return virtualSize;
}

const MAGIC: readonly (readonly [name: string, bytes: readonly number[]])[] = [
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['zip', [0x50, 0x4b, 0x03, 0x04]],
];

async function packingOf(path: string): Promise<string | undefined> {
  const file = await open(path, 'r');
  try {
    const start = Buffer.alloc(8);
    await file.read(start, 0, start.length, 0);
    return MAGIC.find(([, bytes]) => bytes.every((byte, at) => start[at] === byte))?.[0];
  } finally {
    await file.close();
  }
}
