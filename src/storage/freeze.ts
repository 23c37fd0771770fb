import { chmodSync, linkSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { IoRing } from '../kvm/io-ring.ts';
import { whileLocked } from './file-lock.ts';
import { openError } from './open-error.ts';
import type { ChainPolicy } from './qcow2/chain.ts';
import { createOverlay } from './qcow2/create-overlay.ts';
import { syncFolder } from './sync-folder.ts';

/** of a file that is never written to again */
const FROZEN_MODE = 0o400;

/**
 * Gives what a qcow2 disk has now to a file beside it, which is never written to from then on, and makes the disk an
 * overlay over that: nothing is copied. At whatever point this ends early, the disk is there and reads as before.
 * @param layer name of that file, which is not there yet
 * @throws StorageError
 */
export async function freezeDisk(
  ring: IoRing,
  path: string,
  layer: string,
  policy: ChainPolicy = {},
): Promise<void> {
  const folder = dirname(path);
  const frozen = join(folder, layer);
  await whileLocked([[path, 'write']], () => {
    try {
      // For a moment the disk has two names: there is none in which it has no name.
      linkSync(path, frozen);
    } catch (error) {
      throw openError(frozen, error);
    }
  });
  try {
    await putOverlay(ring, path, layer, policy);
  } catch (error) {
    rmSync(frozen, { force: true });
    throw error;
  }
  chmodSync(frozen, FROZEN_MODE);
  syncFolder(folder);
}

/**
 * Makes a disk an empty overlay over a layer beside it, whatever it was before. It is the old or the new one, wherever
 * this ends early.
 * @throws StorageError
 */
export async function putOverlay(
  ring: IoRing,
  path: string,
  layer: string,
  policy: ChainPolicy = {},
): Promise<void> {
  const temporary = `${path}.${process.pid}.part`;
  rmSync(temporary, { force: true });
  try {
    await createOverlay(ring, temporary, { name: layer, format: 'qcow2' }, { ...policy, frozen: true });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}
