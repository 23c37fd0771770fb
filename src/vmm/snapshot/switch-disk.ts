import { basename, dirname } from 'node:path';
import type { IoRing } from '../../kvm/io-ring.ts';
import { StorageError, type Disk } from '../../storage/disk.ts';
import { freezeDisk } from '../../storage/freeze.ts';
import type { SwitchableDisk } from '../../storage/switchable-disk.ts';

/**
 * Has a qcow2 disk at rest go on in an overlay, over what was written so far.
 * @param layer the path that what was written so far gets, in the disk's folder
 * @param reopen opens the disk's own path
 * @throws StorageError: the disk goes on as before
 */
export async function switchToOverlay(
  ring: IoRing,
  disk: SwitchableDisk,
  layer: string,
  reopen: () => Promise<Disk>,
): Promise<void> {
  const { path } = disk;
  if (dirname(layer) !== dirname(path))
    throw new StorageError(layer, 'EINVAL', `is not in the folder of ${path}, whose contents it is to have`);
  // Whoever opens the layer finds nobody writing to it.
  await disk.current.close();
  try {
    await freezeDisk(ring, path, basename(layer), { trusted: true });
  } finally {
    disk.switchTo(await reopen());
  }
}
