/**
 * Guests that have booted and have run nothing yet, from which `run` goes on: a folder each, named by what has to be the
 * same (key.ts), with what a snapshot has and the layers below it. One is complete, and never changes; it goes when
 * others are used more, with its image, or by `image prune`.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, statSync, utimesSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import { syncFolder } from '../../storage/sync-folder.ts';
import type { StoredImage } from '../images/record.ts';
import { namesIn, spaceOf } from '../images/store.ts';
import { foldersOver, vmsOverImage } from '../images/users.ts';
import { privateFolder, type ManagerPaths } from '../paths.ts';
import { layClone, linkOrCopy, unwrittenFiles } from '../snapshots/clone.ts';
import { stagingFolder, takeInto } from '../snapshots/create.ts';
import { LayerMap } from '../snapshots/layers.ts';
import { readSnapshot } from '../snapshots/record.ts';
import { layerFile } from '../vms/files.ts';
import { whileVmLocked } from '../vms/folder-lock.ts';
import { HIDDEN, hiddenFolder } from '../vms/owner.ts';
import type { VmSettings } from '../vms/settings.ts';
import type { VmStore } from '../vms/store.ts';

type Paths = Pick<ManagerPaths, 'warm'>;

/** So many are kept: each has a guest's memory as a file. */
const KEPT = 8;
const KEY = /^[0-9a-f]{64}$/;

export const hasWarm = ({ warm }: Paths, key: string): boolean => existsSync(join(warm, key));

/**
 * Fills the folder of a new VM that goes on from the guest of a key.
 * @returns its settings; undefined where there is no such guest, or it has just gone: the folder is not to be used then
 */
export async function layWarm(
  { warm }: Paths,
  key: string,
  target: string,
  name: string,
): Promise<VmSettings | undefined> {
  const folder = join(warm, key);
  try {
    const now = new Date();
    utimesSync(folder, now, now);
    const record = readSnapshot(folder, `of '${key}'`);
    const map = await LayerMap.read(folder);
    // What it would be told of its network is what the key is made of.
    return await layClone(target, name, { folder, own: folder, record, map, renews: false });
  } catch (error) {
    if (['ENOENT', 'ENOSNAP'].includes(systemCode(error) ?? '')) return undefined;
    throw error;
  }
}

/**
 * Keeps the guest of a VM that has booted and has run nothing yet; it goes on. Where somebody else has been faster, that
 * one's stays.
 * @throws SnapshotError, StorageError, ControlError: nothing is left then
 */
export async function keepWarm(paths: Paths, key: string, store: VmStore, name: string): Promise<void> {
  const folder = store.folderOf(name);
  await whileVmLocked(folder, async () => {
    const staging = stagingFolder(folder, 'warm');
    const coming = hiddenFolder(privateFolder(paths.warm), 'new', key.slice(0, 8));
    try {
      await takeInto(store, name, staging, { name: 'warm' });
      mkdirSync(coming, { mode: 0o700 });
      const { disks } = readSnapshot(staging, 'just taken');
      const map = await LayerMap.read(folder);
      const layers = disks.flatMap(({ layer }) => map.chain(layerFile(layer)));
      for (const file of readdirSync(staging)) await linkOrCopy(join(staging, file), join(coming, file));
      for (const file of [...layers, ...unwrittenFiles(store.settings(name))])
        await linkOrCopy(join(folder, file), join(coming, file));
      syncFolder(coming);
      if (hasWarm(paths, key)) return;
      renameSync(coming, join(paths.warm, key));
      syncFolder(paths.warm);
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) throw error;
    } finally {
      await rm(coming, { recursive: true, force: true });
      await rm(staging, { recursive: true, force: true });
    }
  });
  for (const each of keysOf(paths).slice(KEPT)) await discardWarm(paths, each);
  await sweep(paths);
}

/** The ones that were used last first. */
function keysOf({ warm }: Paths): string[] {
  const usedAt = (key: string): number => statSync(join(warm, key), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const used = namesIn(warm)
    .filter((name) => KEY.test(name))
    .map((key) => ({ key, at: usedAt(key) }));
  return used.sort((a, b) => b.at - a.at).map(({ key }) => key);
}

/** @returns what the file system has again, in bytes */
export async function discardWarm({ warm }: Paths, key: string): Promise<number> {
  const folder = join(warm, key);
  const gone = hiddenFolder(warm, 'old', key.slice(0, 8));
  try {
    renameSync(folder, gone);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
  const freed = await spaceOf(gone);
  await rm(gone, { recursive: true, force: true });
  return freed;
}

/**
 * Discards those that lie on an image, or all.
 * @returns what the file system has again, in bytes
 */
export async function pruneWarm(paths: Paths, image?: Pick<StoredImage, 'folder'>): Promise<number> {
  const keys = image === undefined ? keysOf(paths) : await foldersOver(paths.warm, image);
  let freed = await sweep(paths);
  for (const key of keys) freed += await discardWarm(paths, key);
  return freed;
}

/**
 * Who lies on an image that is to be removed: names of VMs. Where there are none, no guest that `run` goes on from does
 * any more.
 */
export async function freeImage(
  paths: Pick<ManagerPaths, 'vms' | 'warm'>,
  image: StoredImage,
): Promise<readonly string[]> {
  const users = await vmsOverImage(paths, image);
  if (users.length === 0) await pruneWarm(paths, image);
  return users;
}

/** Removes what processes that were killed have left. */
async function sweep({ warm }: Paths): Promise<number> {
  let freed = 0;
  for (const name of namesIn(warm)) {
    const pid = name.startsWith(HIDDEN) ? /-(\d+)$/.exec(name)?.[1] : undefined;
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    freed += await spaceOf(join(warm, name));
    await rm(join(warm, name), { recursive: true, force: true });
  }
  return freed;
}
