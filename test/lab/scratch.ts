import { execa } from 'execa';
import { link, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { cacheRoot } from '../../images/debian/cache.ts';
import { compressedDebian } from '../../images/debian/compressed.ts';
import type { DebianSystem } from '../../images/debian/system.ts';
import { LabError } from './commands.ts';

/** Where level 1 has its scratch disk. */
export const SCRATCH_PATH = '/run/scratch';
/** Debian's disk on it in both forms, where there is one. */
export const DEBIAN_DISK = { raw: 'debian.raw', compressed: 'debian.qcow2' } as const;
export type DebianForm = keyof typeof DEBIAN_DISK;
/** Level 1's writes go to a temporary file that holds just what was written. */
const SIZE = '64G';

/**
 * An image for level 1's scratch disk: a file system with holes, discard and direct I/O, which 9p has none of, and
 * room beyond level 1's memory. Debian's disk lies on it ready to be copied: through 9p that takes minutes.
 * @param dir for an image of this lab alone
 * @param debian whose disk is put on it; that image is kept in the cache
 */
export async function scratchImage(dir: string, debian: DebianSystem | undefined): Promise<string> {
  if (debian === undefined) {
    const image = join(dir, 'scratch.ext4');
    await makeFileSystem(image, []);
    return image;
  }
  const folder = join(cacheRoot(), 'lab', 'scratch');
  await mkdir(folder, { recursive: true });
  const name = `${basename(debian.folder)}-2.ext4`;
  const image = join(folder, name);
  const present = await readdir(folder);
  if (present.includes(name)) return image;
  const staging = await mkdtemp(join(folder, 'staging-'));
  try {
    const root = join(staging, 'root');
    await mkdir(root);
    await link(debian.disk, join(root, DEBIAN_DISK.raw));
    await link(await compressedDebian(debian), join(root, DEBIAN_DISK.compressed));
    await makeFileSystem(join(staging, name), ['-d', root]);
    await rename(join(staging, name), image);
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
  // Of images that were built before this one. QEMU keeps what it has open.
  for (const old of present) if (old.endsWith('.ext4')) await rm(join(folder, old), { force: true });
  return image;
}

async function makeFileSystem(image: string, args: readonly string[]): Promise<void> {
  const options = ['-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-E', 'lazy_itable_init=1', '-m', '0'];
  const made = await execa('mke2fs', [...options, ...args, image, SIZE], {
    reject: false,
    env: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  });
  if (made.failed) {
    throw new LabError(`mke2fs (package e2fsprogs) failed on ${image}: ${made.stderr || made.shortMessage}`);
  }
}
