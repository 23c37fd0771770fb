/** What an image of the store gives a VM that is made on it. */
import { ensureImage, type PullOptions } from '../images/pull.ts';
import type { StoredImage } from '../images/record.ts';
import { getImage, IMAGES_LOCK } from '../images/store.ts';
import { withLock } from '../lock.ts';
import type { ManagerPaths } from '../paths.ts';
import { withConsole } from './command-line.ts';
import type { NewVm } from './create.ts';

export type ImageBase = Omit<NewVm, 'name' | 'seed'> & { readonly seed: NonNullable<NewVm['seed']> };

/**
 * Makes a VM on an image of the store, which nobody removes meanwhile; it is downloaded where it is not here.
 * @param make has to have the overlay made when it resolves
 * @throws ImageError, IniError, and what `make` throws
 */
export async function onImage<T>(
  paths: ManagerPaths,
  name: string,
  make: (base: ImageBase, image: StoredImage) => Promise<T>,
  options: PullOptions = {},
): Promise<T> {
  const { id } = await ensureImage(paths, name, options);
  return withLock(paths, IMAGES_LOCK, () => {
    const image = getImage(paths, id);
    const { disk, format, kernel, initrd, cmdline, user, agent, name: own } = image;
    const base: ImageBase = {
      disk: { path: disk, format },
      image: own,
      ...(kernel !== undefined && { kernel }),
      ...(initrd !== undefined && { initrd }),
      // An image says where its root file system is, and knows nothing of consoles.
      ...(cmdline !== undefined && { cmdline: withConsole(cmdline, 'serial') }),
      ...(user !== undefined && { user }),
      // Images of the catalogue are made for clouds.
      seed: { agent: agent === 'included' ? 'start' : 'install' },
    };
    return make(base, image);
  });
}
