/**
 * Images on this machine: a folder each, `images/ID`, with `image.json`, `disk.qcow2` or `disk.raw`, and where the
 * distributor publishes them `vmlinuz` and `initrd`. A folder is made under another name and renamed when it is
 * complete; its files are read-only, and VMs have overlays over them.
 */
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { chmod, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { syncFolder } from '../../storage/sync-folder.ts';
import { withLock } from '../lock.ts';
import { privateFolder, type ManagerPaths } from '../paths.ts';
import { lookUp, type Catalogue } from './catalogue.ts';
import { systemCode } from '../../kvm/system-code.ts';
import { ImageError } from './errors.ts';
import { checkName, isImageId } from './names.ts';
import { readImage, RECORD_NAME, type ImageRecord, type StoredImage } from './record.ts';

/**
 * Whoever makes a VM has this lock from before it chooses an image until its overlay is there: so long none is removed.
 */
export const IMAGES_LOCK = 'images';

/** Downloads that are not complete. */
const DOWNLOADS = '.downloads';
/** Folders of images that come or go. */
const STAGED = '.new-';
const REMOVED = '.old-';

/** Tells who uses an image: names of VMs. */
export type UsersOf = (image: StoredImage) => readonly string[] | Promise<readonly string[]>;

export type ImageList = {
  /** by name, the newest of each first */
  readonly images: readonly StoredImage[];
  /** folders that cannot be read as images */
  readonly damaged: readonly { readonly id: string; readonly reason: string }[];
};

export function listImages(paths: ManagerPaths): ImageList {
  const images: StoredImage[] = [];
  const damaged: { id: string; reason: string }[] = [];
  for (const id of namesIn(paths.images).filter(isImageId)) {
    try {
      images.push(readImage(paths.images, id));
    } catch (error) {
      if (error instanceof ImageError && error.code !== 'ENOENT') damaged.push({ id, reason: error.message });
      // A folder without a record is none of ours.
      else if (!(error instanceof ImageError)) throw error;
    }
  }
  images.sort((a, b) => compare(a.name, b.name) || compare(b.created, a.created) || compare(a.id, b.id));
  return { images, damaged };
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/**
 * An image that is here: by its identifier, its name, or a name that the catalogue has for it. Of several, the newest.
 * @param catalogue is asked for where no image has just this name
 * @returns undefined where there is none
 */
export function findImage(
  paths: ManagerPaths,
  name: string,
  catalogue?: () => Catalogue,
): StoredImage | undefined {
  if (isImageId(name)) {
    try {
      return readImage(paths.images, name);
    } catch (error) {
      if (!(error instanceof ImageError) || error.code !== 'ENOENT') throw error;
    }
  }
  checkName(name);
  const { images } = listImages(paths);
  const named = images.find((image) => image.name === name);
  if (named !== undefined) return named;
  const own = catalogue === undefined ? undefined : lookUp(catalogue(), name)?.name;
  return (
    images.find((image) => image.name === own) ??
    images.find((image) => image.name.replace(':', '-') === name)
  );
}

/** @throws ImageError (ENOENT) */
export function getImage(paths: ManagerPaths, name: string, catalogue?: () => Catalogue): StoredImage {
  const image = findImage(paths, name, catalogue);
  if (image !== undefined) return image;
  throw new ImageError('ENOENT', `there is no image ${name} on this machine`, {
    hint: `\`tsvm image pull ${name}\` gets it, \`tsvm image ls\` shows what is here`,
  });
}

/**
 * Removes an image that no VM uses. A name means the newest image that has it.
 * @throws ImageError (ENOENT; EBUSY, which names the VMs)
 */
export function removeImage(
  paths: ManagerPaths,
  name: string,
  usersOf: UsersOf,
  catalogue?: () => Catalogue,
): Promise<{ readonly id: string }> {
  return withLock(paths, IMAGES_LOCK, async () => {
    const id = isDamaged(paths, name) ? name : getImage(paths, name, catalogue).id;
    if (id !== name || !isDamaged(paths, id)) {
      const image = readImage(paths.images, id);
      const users = await usersOf(image);
      if (users.length > 0) {
        throw new ImageError('EBUSY', `the image ${id} is used by ${users.join(', ')}`, {
          hint: 'its disk is below theirs: delete these VMs first (`tsvm delete`)',
        });
      }
    }
    await discardFolder(paths, id);
    return { id };
  });
}

function isDamaged(paths: ManagerPaths, id: string): boolean {
  return isImageId(id) && listImages(paths).damaged.some((each) => each.id === id);
}

export type Pruned = {
  readonly removed: readonly StoredImage[];
  /** that the file system has again, in bytes; what was left of broken downloads counts too */
  readonly freed: number;
};

/** Removes all images that no VM uses, and what was left of downloads and of commands that were killed. */
export function pruneImages(paths: ManagerPaths, usersOf: UsersOf): Promise<Pruned> {
  return withLock(paths, IMAGES_LOCK, async () => {
    const removed: StoredImage[] = [];
    let freed = 0;
    for (const image of listImages(paths).images) {
      if ((await usersOf(image)).length > 0) continue;
      freed += await spaceOf(image.folder);
      await discardFolder(paths, image.id);
      removed.push(image);
    }
    for (const name of namesIn(paths.images)) {
      if (!name.startsWith(REMOVED)) continue;
      freed += await spaceOf(join(paths.images, name));
      await rm(join(paths.images, name), { recursive: true, force: true });
    }
    // Of an image whose lock is free, nobody is downloading anything.
    for (const id of interruptedIn(paths)) {
      freed += await ifFree(paths, imageLock(id), async () => {
        const folders = [stagingFolder(paths, id), downloadsFolder(paths, id)];
        let size = 0;
        for (const folder of folders) {
          size += await spaceOf(folder);
          await rm(folder, { recursive: true, force: true });
        }
        return size;
      });
    }
    return { removed, freed };
  });
}

/** Identifiers of images that somebody has begun to get. */
function interruptedIn(paths: ManagerPaths): Set<string> {
  const staged = namesIn(paths.images)
    .filter((name) => name.startsWith(STAGED))
    .map((name) => name.slice(STAGED.length));
  return new Set([...staged, ...namesIn(join(paths.images, DOWNLOADS))].filter(isImageId));
}

async function ifFree(paths: ManagerPaths, lock: string, work: () => Promise<number>): Promise<number> {
  const busy = new AbortController();
  const taken = new Error('somebody has it');
  try {
    return await withLock(paths, lock, work, { onWait: () => busy.abort(taken), signal: busy.signal });
  } catch (error) {
    if (busy.signal.aborted) return 0;
    throw error;
  }
}

/** The name of the lock that one has while it gets an image. Taken within {@link IMAGES_LOCK}, never around it. */
export function imageLock(id: string): string {
  return `image-${id}`;
}

/** Where the files of an image are while they come. Only for who has its lock. */
export function downloadsFolder(paths: ManagerPaths, id: string): string {
  return join(paths.images, DOWNLOADS, id);
}

export function stagingFolder(paths: ManagerPaths, id: string): string {
  return join(paths.images, STAGED + id);
}

/**
 * Makes an image of files that are complete: they are moved, so they have to be on the same file system, and closed to
 * changes. Only for who has its lock.
 */
export async function landImage(
  paths: ManagerPaths,
  id: string,
  record: ImageRecord,
  files: readonly { readonly from: string; readonly name: string }[],
): Promise<StoredImage> {
  const staging = stagingFolder(paths, id);
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { mode: 0o700 });
  for (const { from, name } of files) {
    await chmod(from, 0o444);
    await rename(from, join(staging, name));
  }
  const file = await open(join(staging, RECORD_NAME), 'wx', 0o444);
  try {
    await file.writeFile(`${JSON.stringify(record, undefined, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  syncFolder(staging);
  await rename(staging, join(paths.images, id));
  syncFolder(paths.images);
  return readImage(paths.images, id);
}

/** Gone at once for everybody, then removed. VMs that have its files open keep them. */
async function discardFolder(paths: ManagerPaths, id: string): Promise<void> {
  const away = join(paths.images, `${REMOVED}${id}-${process.pid}-${Date.now().toString(36)}`);
  await rename(join(paths.images, id), away);
  syncFolder(paths.images);
  await rm(away, { recursive: true, force: true });
}

/** What a folder takes on the file system, in bytes. */
export async function spaceOf(folder: string): Promise<number> {
  let size = 0;
  for (const name of namesIn(folder)) size += (await stat(join(folder, name))).blocks * 512;
  return size;
}

/** Makes the folders that images need. */
export function prepareStore(paths: ManagerPaths): void {
  privateFolder(paths.root);
  privateFolder(paths.images);
}

/** Names in a folder, sorted; none where it is not there. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return [];
    throw error;
  }
}

/** A checksum of text, in hexadecimal. */
export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
