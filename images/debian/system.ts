import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  formatPackageList,
  listedPackages,
  newestPackages,
  parsePackageList,
  type PackageFile,
  type PackageVersion,
} from './archive.ts';
import { assemble } from './assemble.ts';
import { debianCache, DebianError, temporaryName, withLock, writeAtomically } from './cache.ts';
import { diskLayout } from './disk-layout.ts';
import { LOGIN, makeRecipe, type Recipe, type RecipeOptions } from './recipe.ts';

export type DebianSystemOptions = RecipeOptions & {
  /** a `packages.txt` of an earlier build: build from just these versions */
  readonly versions?: string;
  /** take the newest packages, also where there is an image already; default false */
  readonly refresh?: boolean;
  /** gets a line about each step; default: writes it to stderr */
  readonly progress?: (line: string) => void;
};

/** An image in the cache. Its files are shared by all that use it: write to a copy or an overlay. */
export type DebianSystem = {
  /** of all the files below */
  readonly folder: string;
  /** GPT disk, raw and sparse, with one ext4 root partition */
  readonly disk: string;
  /** the image's own kernel and initramfs, for direct boot */
  readonly kernel: string;
  readonly initrd: string;
  /** list of NAME VERSION ARCHITECTURE SHA256, of all packages in the image */
  readonly packages: string;
  /** JSON of what it was built from and how to boot it */
  readonly recipe: string;
  /** as `uname -r` says it */
  readonly kernelVersion: string;
  /** what the kernel needs to find the root file system; `console=` is the caller's */
  readonly cmdline: string;
  /** in bytes */
  readonly diskSize: number;
  /** of the root partition in the disk, in bytes */
  readonly rootOffset: number;
  /** for the consoles; sshd takes keys only */
  readonly login: { readonly user: string; readonly password: string };
};

/**
 * A Debian with systemd, sshd and the QEMU guest agent on a disk, from the cache or else built from Debian's packages.
 * The first build downloads some 120 MB and takes a minute or two. Needs no root where user namespaces may be made;
 * may run in several processes at once, and be killed at any time.
 * @throws DebianError that names the step that failed and what to do, RangeError on options that cannot be
 */
export async function buildDebian(options: DebianSystemOptions = {}): Promise<DebianSystem> {
  const recipe = await makeRecipe(options);
  const progress = options.progress ?? ((line: string) => process.stderr.write(`tsvm: ${line}\n`));
  const versions =
    options.versions === undefined ? undefined : await readVersions(options.versions, recipe.packages);
  const pinned = versions === undefined ? '' : `-${digest(formatPackageList(versions))}`;
  const index = join(imagesDir(), `${recipe.checksum.slice(0, 32)}${pinned}.json`);

  const refresh = options.refresh === true && versions === undefined;
  const known = refresh ? undefined : await cached(index);
  if (known !== undefined) return known;
  return withLock(join(imagesDir(), 'lock'), async () => {
    const other = refresh ? undefined : await cached(index);
    if (other !== undefined) return other;
    await removeLeftovers();
    progress('building Debian 12 (once): fetching its packages, some 120 MB where they are not in the cache');
    const packages =
      versions === undefined
        ? await newestPackages(recipe.packages, { freshLists: refresh })
        : await listedPackages(versions);
    const name = `${recipe.checksum.slice(0, 16)}-${digest(formatPackageList(packages))}`;
    const folder = join(imagesDir(), name);
    if (!existsSync(folder)) await build(recipe, packages, folder, progress);
    const replaced = refresh ? await cached(index) : undefined;
    await writeAtomically(index, `${JSON.stringify({ folder: name })}\n`);
    if (replaced !== undefined && replaced.folder !== folder) {
      await rm(replaced.folder, { recursive: true, force: true });
    }
    return describe(folder);
  });
}

/** A list of packages with their versions, which must have all those that the recipe names. */
async function readVersions(file: string, needed: readonly string[]): Promise<PackageVersion[]> {
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new DebianError(
      `cannot read the list of versions: ${error instanceof Error ? error.message : file}`,
    );
  });
  const versions = parsePackageList(text, file);
  const names = new Set(versions.map(({ name }) => name));
  const lacking = needed.filter((name) => !names.has(name));
  if (lacking.length > 0) throw new DebianError(`${file} has no version of ${lacking.join(', ')}`);
  return versions;
}

async function build(
  recipe: Recipe,
  packages: readonly PackageFile[],
  folder: string,
  progress: (line: string) => void,
): Promise<void> {
  const layout = diskLayout(recipe.diskSize, recipe.ids);
  const temporary = temporaryName(folder);
  await mkdir(temporary, { recursive: true });
  try {
    const installed = await assemble({ recipe, packages, layout, into: temporary, progress });
    await writeFile(join(temporary, 'packages.txt'), formatPackageList(installed));
    const kernel = installed.find(({ name }) => /^linux-image-\d/.test(name));
    if (kernel === undefined) throw new DebianError('the image has no kernel');
    const record = {
      release: recipe.release,
      checksum: recipe.checksum,
      packages: recipe.packages,
      diskSize: recipe.diskSize,
      rootOffset: layout.rootOffset,
      ids: recipe.ids,
      kernelVersion: kernel.name.slice('linux-image-'.length),
      cmdline: `root=PARTUUID=${recipe.ids.partition} ro quiet`,
      login: LOGIN,
    };
    await writeFile(join(temporary, 'recipe.json'), `${JSON.stringify(record, undefined, 2)}\n`);
    await rename(temporary, folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

function imagesDir(): string {
  return join(debianCache(), 'images');
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

async function cached(index: string): Promise<DebianSystem | undefined> {
  try {
    const record: unknown = JSON.parse(await readFile(index, 'utf8'));
    if (typeof record !== 'object' || record === null || !('folder' in record)) return undefined;
    if (typeof record.folder !== 'string' || !/^[\w-]+$/.test(record.folder)) return undefined;
    return await describe(join(dirname(index), record.folder));
  } catch {
    return undefined;
  }
}

async function describe(folder: string): Promise<DebianSystem> {
  const files = {
    disk: join(folder, 'disk.raw'),
    kernel: join(folder, 'vmlinuz'),
    initrd: join(folder, 'initrd.img'),
    packages: join(folder, 'packages.txt'),
    recipe: join(folder, 'recipe.json'),
  };
  const missing = Object.values(files).find((file) => !existsSync(file));
  if (missing !== undefined) throw new DebianError(`${missing} is not there: remove ${folder}`);
  // The folder came to its name complete, so this is what build() wrote.
  const record = JSON.parse(await readFile(files.recipe, 'utf8')) as Omit<
    DebianSystem,
    'folder' | keyof typeof files
  >;
  const { kernelVersion, cmdline, diskSize, rootOffset, login } = record;
  return { folder, ...files, kernelVersion, cmdline, diskSize, rootOffset, login };
}

/** Of builders that were killed: whoever holds the lock is the only one who builds here. */
async function removeLeftovers(): Promise<void> {
  for (const entry of await readdir(imagesDir())) {
    if (entry.includes('.tmp-')) await rm(join(imagesDir(), entry), { recursive: true, force: true });
  }
}
