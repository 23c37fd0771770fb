/**
 * Unpacks what a guest sends, which may mean harm. All of it lands in a new folder that is only ours, where every name
 * is looked at: none leads out of it, and nothing is written through a symbolic link. Only then it is put in its place.
 */
import { chmod, link, lstat, lutimes, mkdir, open, opendir, rename, symlink, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../../kvm/system-code.ts';
import { CopyError, reasonOf } from './errors.ts';
import { hostError, skip, type CopyTally } from './host-source.ts';
import { readTar, TarError, type TarEntry } from './tar-reader.ts';

/** Set-id and sticky bits are not the guest's to give. */
const MODE = 0o777;
const OWNER_ALL = 0o700;
/** Folders that their owner may not write to become so at the end; so many of them are noted. */
const NOTED = 10_000;
/** PATH_MAX of Linux, with the zero */
const TARGET_LIMIT = 4095;

export type UnpackOptions = {
  /** whether names begin with that of the tree, which is left out; else they begin in it. Default true */
  readonly isNamed?: boolean;
  readonly tally: CopyTally;
  readonly signal?: AbortSignal | undefined;
  readonly onEntry?: (size: number) => void;
};

/** What has been unpacked: to be put in its place, and finished there. */
export type UnpackedTree = {
  readonly isFolder: boolean;
  /** Gives folders that are not to be written to their permissions. @param path where the tree is by now */
  readonly finish: (path: string) => Promise<void>;
};

/**
 * @param tree path that does not exist, in a folder that nobody else writes to
 * @throws TarError, CopyError for what cannot be written, or must not
 */
export async function unpackTree(
  input: AsyncIterable<Buffer>,
  tree: string,
  options: UnpackOptions,
): Promise<UnpackedTree> {
  const unpacker = new Unpacker(tree, options);
  for await (const entry of readTar(input)) {
    options.signal?.throwIfAborted();
    await unpacker.add(entry);
  }
  return await unpacker.end();
}

type Folder = { readonly path: string; readonly mode: number; readonly mtime: number };

class Unpacker {
  readonly #tree: string;
  readonly #options: UnpackOptions;
  /** those that the last entry is in, outermost first: what comes into them changes their times */
  readonly #open: Folder[] = [];
  readonly #readOnly: { readonly parts: readonly string[]; readonly mode: number }[] = [];
  #checked: string | undefined;
  #kind: 'none' | 'folder' | 'other' = 'none';

  constructor(tree: string, options: UnpackOptions) {
    this.#tree = tree;
    this.#options = options;
  }

  async add(entry: TarEntry): Promise<void> {
    const { tally, onEntry } = this.#options;
    const parts = this.#partsOf(entry.path);
    const path = join(this.#tree, ...parts);
    await this.#leave(path);
    if (parts.length === 0) {
      if (this.#kind !== 'none') throw unsafe(entry.path, 'comes twice');
      this.#kind = entry.type === 'folder' ? 'folder' : 'other';
    } else {
      if (this.#kind !== 'folder') throw unsafe(entry.path, 'is in no folder');
      await this.#checkParents(parts, entry.path);
    }
    onEntry?.(entry.size);
    try {
      switch (entry.type) {
        case 'folder':
          await mkdir(path, OWNER_ALL);
          this.#open.push({ path, mode: entry.mode & MODE, mtime: entry.mtime });
          if ((entry.mode & OWNER_ALL) !== OWNER_ALL && this.#readOnly.length < NOTED)
            this.#readOnly.push({ parts, mode: entry.mode & MODE });
          return;
        case 'file':
          await this.#addFile(path, entry);
          break;
        case 'symlink':
          if (entry.target === '' || entry.target.includes('\0') || entry.target.length > TARGET_LIMIT)
            throw unsafe(entry.path, 'leads to what is no path');
          await symlink(entry.target, path);
          await lutimes(path, entry.mtime, entry.mtime);
          break;
        case 'link':
          await this.#addLink(path, entry);
          break;
        case 'other':
          skip(tally, entry.path);
          return;
      }
      tally.files++;
    } catch (error) {
      if (systemCode(error) === 'EEXIST') throw unsafe(entry.path, 'comes twice');
      throw error instanceof TarError ? error : entryError(entry.path, error);
    }
  }

  async end(): Promise<UnpackedTree> {
    await this.#leave(undefined);
    if (this.#kind === 'none') throw new TarError('the archive has nothing in it');
    const readOnly = this.#readOnly;
    return {
      isFolder: this.#kind === 'folder',
      finish: async (path) => {
        // Those within others first: nothing is reached through a folder that may not be entered.
        for (const { parts, mode } of readOnly.toReversed()) await chmod(join(path, ...parts), mode);
      },
    };
  }

  /** The parts of a name below the tree. @throws CopyError where it leads anywhere else */
  #partsOf(name: string): string[] {
    const parts = name.split('/').filter((part) => part !== '' && part !== '.');
    if (name.startsWith('/') || name.includes('\0') || parts.includes('..'))
      throw unsafe(name, 'leads out of what is copied');
    return this.#options.isNamed === false ? parts : parts.slice(1);
  }

  /** Every folder on the way is one that this has made: no link leads elsewhere. */
  async #checkParents(parts: readonly string[], name: string): Promise<void> {
    const parent = join(this.#tree, ...parts.slice(0, -1));
    if (parent === this.#checked) return;
    for (let depth = 0; depth < parts.length; depth++) {
      const path = join(this.#tree, ...parts.slice(0, depth));
      const stats = await lstat(path).catch(() => undefined);
      if (stats?.isDirectory() !== true) throw unsafe(name, 'is in no folder');
    }
    this.#checked = parent;
  }

  async #addFile(path: string, { mode, mtime, content }: TarEntry): Promise<void> {
    const { tally, signal } = this.#options;
    // Exclusive: it follows no link.
    const file = await open(path, 'wx', 0o600);
    try {
      for await (const piece of content) {
        signal?.throwIfAborted();
        for (let at = 0; at < piece.length;) {
          const { bytesWritten } = await file.write(piece, at);
          at += bytesWritten;
          tally.bytes += bytesWritten;
        }
      }
      await file.chmod(mode & MODE);
      await file.utimes(mtime, mtime);
    } finally {
      await file.close();
    }
  }

  async #addLink(path: string, entry: TarEntry): Promise<void> {
    const parts = this.#partsOf(entry.target);
    await this.#checkParents(parts, entry.target);
    const other = join(this.#tree, ...parts);
    const stats = await lstat(other).catch(() => undefined);
    if (stats?.isFile() !== true) throw unsafe(entry.path, 'is a link to what is no file');
    await link(other, path);
  }

  /** Finishes the folders that `path` is not in. */
  async #leave(path: string | undefined): Promise<void> {
    for (;;) {
      const last = this.#open.at(-1);
      if (last === undefined || path?.startsWith(`${last.path}/`) === true) return;
      this.#open.pop();
      await chmod(last.path, last.mode | OWNER_ALL);
      await utimes(last.path, last.mtime, last.mtime);
    }
  }
}

/**
 * Puts a tree in its place: whole where nothing is there; else folders become one, and files take the place of files,
 * each at once. Nothing is changed where something does not fit.
 * @throws CopyError
 */
export async function placeTree(tree: string, target: string): Promise<void> {
  await walk(tree, target, () => Promise.resolve());
  await walk(tree, target, async (from, to) => {
    await rename(from, to).catch((error: unknown) => Promise.reject(hostError(to, error)));
  });
}

async function walk(
  from: string,
  to: string,
  move: (from: string, to: string) => Promise<void>,
): Promise<void> {
  const [there, comes] = await Promise.all([lstat(to).catch(ifMissing(to)), lstat(from)]);
  if (there === undefined) {
    await move(from, to);
  } else if (there.isDirectory() && comes.isDirectory()) {
    for await (const { name } of await opendir(from)) await walk(join(from, name), join(to, name), move);
  } else if (there.isDirectory()) {
    throw new CopyError({ side: 'host', path: to }, 'this is a folder, and what comes is none');
  } else if (comes.isDirectory()) {
    throw new CopyError({ side: 'host', path: to }, 'this is no folder, and what comes is one');
  } else await move(from, to);
}

const ifMissing =
  (path: string) =>
  (error: unknown): undefined => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw hostError(path, error);
  };

function unsafe(name: string, why: string): CopyError {
  return new CopyError({ side: 'guest', path: JSON.stringify(name) }, `${why}: the guest must not do that`);
}

function entryError(name: string, error: unknown): unknown {
  if (!(error instanceof Error) || !('syscall' in error)) return error;
  return new CopyError({ side: 'host', path: name }, reasonOf(error), { cause: error });
}
