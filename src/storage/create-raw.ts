import { ftruncateSync } from 'node:fs';
import { StorageError } from './disk.ts';
import { fillSpace, type Preallocation } from './fill-space.ts';
import { NewFile } from './new-file.ts';

export type RawCreateOptions = {
  /** of the disk in bytes, a multiple of 512 */
  readonly size: number;
  /** default `off`: a file with holes */
  readonly preallocation?: Exclude<Preallocation, 'metadata'>;
  /** An image of the same name, which nobody uses, may be lost. Default false: that is an error */
  readonly replace?: boolean;
};

/**
 * Makes a raw disk of zeros in a new file, which has its name only when it is complete and on stable storage.
 * @throws StorageError; no file is left then
 */
export async function createRaw(
  path: string,
  options: RawCreateOptions,
  progress?: (share: number) => void,
): Promise<void> {
  const file = new NewFile(path, options.replace);
  try {
    await writeRaw(file, options, progress);
    file.publish();
  } catch (error) {
    throw file.errorOf(error);
  } finally {
    file.discard();
  }
}

/** The empty disk, in a file that is not published yet. */
export async function writeRaw(
  file: NewFile,
  { size, preallocation = 'off' }: RawCreateOptions,
  progress?: (share: number) => void,
): Promise<void> {
  if (!Number.isSafeInteger(size) || size <= 0 || size % 512 !== 0)
    throw new StorageError(file.path, 'EINVAL', `${size} bytes are no size of a disk: multiples of 512 are`);
  ftruncateSync(file.fd, size);
  await fillSpace(file, 0, size, preallocation, progress);
}
