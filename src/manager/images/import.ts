/** Images of files that the user has. */
import { randomUUID } from 'node:crypto';
import { rm, stat, truncate } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';

import { whileLocked } from '../../storage/file-lock.ts';
import { looksLikeQcow2 } from '../../storage/open.ts';
import { withLock } from '../lock.ts';
import { privateFolder, type ManagerPaths } from '../paths.ts';
import { copySparsely } from '../sparse-copy.ts';
import { checkDisk } from './disk-format.ts';
import { systemCode } from '../../kvm/system-code.ts';
import { ImageError } from './errors.ts';
import { checkName, imageId } from './names.ts';
import { DISK_NAME, type StoredImage } from './record.ts';
import { downloadsFolder, imageLock, landImage, prepareStore } from './store.ts';

export type ImportOptions = {
  /** default: the file's own name, as far as it can be one */
  readonly name?: string;
  /**
   * Default: qcow2 where the file begins like that, else raw. Only here it is recognised, as the file is the user's:
   * of one that a guest could write to, say it
   */
  readonly format?: 'qcow2' | 'raw';
  readonly title?: string;
  /** files to boot it with; without them they are in the disk */
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  /** the user that cloud-init makes by default in it */
  readonly user?: string;
  /** whether a guest agent is in it. Default `install` */
  readonly agent?: 'included' | 'install';
  /** Takes the share that is done, from 0 to 1. */
  readonly onProgress?: (share: number) => void;
};

/** A kernel or an initrd has some 10 to 100 MiB. */
const BOOT_FILE_LIMIT = 2 ** 30;
const SECTOR = 512;

/**
 * Copies a disk into the store; holes stay holes, and where the file system can, both share what they have.
 * @throws ImageError, StorageError (EBUSY while somebody writes to the file)
 */
export async function importImage(
  paths: ManagerPaths,
  file: string,
  options: ImportOptions = {},
): Promise<StoredImage> {
  const name = options.name ?? nameOf(file);
  checkName(name);
  await checkRegular(file, Infinity);
  for (const each of [options.kernel, options.initrd])
    if (each !== undefined) await checkRegular(each, BOOT_FILE_LIMIT);
  if (options.initrd !== undefined && options.kernel === undefined)
    throw new ImageError('EINVAL', 'there is an initrd, and no kernel');
  const format = options.format ?? (looksLikeQcow2(file) ? 'qcow2' : 'raw');
  prepareStore(paths);
  const id = imageId(name, [randomUUID()]);
  const folder = downloadsFolder(paths, id);
  return withLock(paths, imageLock(id), async () => {
    try {
      privateFolder(folder);
      const files: { from: string; name: string }[] = [];
      const add = async (from: string, as: string, onProgress?: (share: number) => void): Promise<string> => {
        const to = join(folder, `${as}.part`);
        await copySparse(from, to, onProgress);
        // Disks end with a sector.
        if (as === DISK_NAME.raw) await truncate(to, Math.ceil((await stat(to)).size / SECTOR) * SECTOR);
        files.push({ from: to, name: as });
        return to;
      };
      const disk = await whileLocked([[file, 'read']], () =>
        add(file, DISK_NAME[format], options.onProgress),
      );
      // What is looked at is what is kept, whatever becomes of the file.
      const virtualSize = await checkDisk(disk, format, file);
      if (options.kernel !== undefined) await add(options.kernel, 'vmlinuz');
      if (options.initrd !== undefined) await add(options.initrd, 'initrd');
      const { cmdline, user } = options;
      return await landImage(
        paths,
        id,
        {
          version: 1,
          name,
          title: options.title ?? name,
          created: new Date().toISOString(),
          source: resolve(file),
          format,
          virtualSize,
          kernel: options.kernel !== undefined,
          initrd: options.initrd !== undefined,
          ...(cmdline !== undefined && { cmdline }),
          ...(user !== undefined && { user }),
          agent: options.agent ?? 'install',
        },
        files,
      );
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

/** @throws ImageError where the name of the file cannot be one of an image */
function nameOf(file: string): string {
  const name = basename(file)
    .toLowerCase()
    .replace(/\.(qcow2|raw|img)$/, '')
    .replaceAll(/[^a-z0-9._-]+/g, '-');
  try {
    checkName(name);
  } catch (cause) {
    throw new ImageError('EINVAL', `${file} has a name that no image can have`, {
      hint: 'give one with --name',
      cause,
    });
  }
  return name;
}

async function checkRegular(file: string, limit: number): Promise<void> {
  try {
    const stats = await stat(file);
    if (!stats.isFile()) throw new ImageError('EFORMAT', `${file} is no regular file`);
    if (stats.size === 0) throw new ImageError('EFORMAT', `${file} is empty`);
    if (stats.size > limit) throw new ImageError('EFORMAT', `${file} is too large for a kernel or an initrd`);
  } catch (error) {
    throw copyError(file, error);
  }
}

async function copySparse(
  from: string,
  to: string,
  onProgress: ((share: number) => void) | undefined,
): Promise<void> {
  try {
    await copySparsely(from, to, onProgress);
  } catch (error) {
    throw copyError(from, error);
  }
}

function copyError(file: string, error: unknown): unknown {
  if (error instanceof ImageError) return error;
  const code = systemCode(error);
  if (code === 'ENOENT' || code === 'ENOTDIR') return new ImageError('ENOENT', `there is no file ${file}`);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new ImageError('ENOSPC', `no space is left for a copy of ${file}; nothing of it is kept`, {
      hint: '`tsvm image prune` removes images that no VM uses',
      cause: error,
    });
  }
  return error;
}
