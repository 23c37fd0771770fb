import { readdirSync, realpathSync } from 'node:fs';
import { dirname, join, resolve, sep } from 'node:path';

import { looksLikeQcow2 } from '../../storage/open.ts';
import { diskInfo } from '../../storage/tools.ts';
import type { ManagerPaths } from '../paths.ts';
import type { StoredImage } from './record.ts';

/**
 * Names of the VMs that have an overlay over an image, as the overlays themselves say: also where the settings of a VM
 * cannot be read.
 */
export const vmsOverImage = (
  paths: Pick<ManagerPaths, 'vms'>,
  image: Pick<StoredImage, 'folder'>,
): Promise<readonly string[]> => foldersOver(paths.vms, image);

/** Names of the folders in one that have an overlay over an image. */
export async function foldersOver(
  parent: string,
  image: Pick<StoredImage, 'folder'>,
): Promise<readonly string[]> {
  const folder = real(image.folder) + sep;
  const users: string[] = [];
  for (const name of entries(parent)) {
    const files = entries(join(parent, name), true).map((file) => join(parent, name, file));
    for (const file of files.filter(looksLikeQcow2)) {
      const below = await backingOf(file);
      if (below !== undefined && real(below).startsWith(folder)) {
        users.push(name);
        break;
      }
    }
  }
  return users;
}

async function backingOf(file: string): Promise<string | undefined> {
  try {
    // Its VM may be running.
    const [{ qcow2 }] = await diskInfo({ path: file, format: 'qcow2' }, { share: true });
    return qcow2?.backingFile === undefined ? undefined : resolve(dirname(file), qcow2.backingFile);
  } catch {
    return undefined;
  }
}

function entries(folder: string, recursive = false): string[] {
  try {
    return readdirSync(folder, { recursive, withFileTypes: true })
      .filter((entry) => (recursive ? entry.isFile() : entry.isDirectory()))
      .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
      .sort();
  } catch {
    return [];
  }
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
