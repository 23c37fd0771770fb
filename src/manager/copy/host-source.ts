import { constants, type Stats } from 'node:fs';
import { lstat, open, opendir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CopyError, reasonOf } from './errors.ts';
import { TAR_END, tarHeader, tarPadding } from './tar-writer.ts';

const PIECE = 256 * 1024;
/** Of things that are not copied, so many are named. */
const NAMED = 20;

/** What has been copied, or is. */
export type CopyTally = { files: number; bytes: number; readonly skipped: string[] };

export const newTally = (): CopyTally => ({ files: 0, bytes: 0, skipped: [] });

/** Counts something that is neither file, folder nor symbolic link. */
export function skip(tally: CopyTally, path: string): void {
  if (tally.skipped.length < NAMED) tally.skipped.push(path);
  else if (tally.skipped.length === NAMED) tally.skipped.push('…');
}

/** @throws CopyError */
export async function statHost(path: string, followLink: boolean): Promise<Stats> {
  try {
    return await (followLink ? stat(path) : lstat(path));
  } catch (error) {
    throw hostError(path, error);
  }
}

/** Bytes in all files of a tree, as far as they can be seen. */
export async function sizeOfTree(path: string, stats: Stats): Promise<number> {
  if (!stats.isDirectory()) return stats.isFile() ? stats.size : 0;
  let size = 0;
  for await (const { name } of await opendir(path)) {
    const below = join(path, name);
    const found = await lstat(below).catch(() => undefined);
    if (found !== undefined) size += await sizeOfTree(below, found);
  }
  return size;
}

/**
 * A tree of this host as a tar archive, in which it has the name `name`; the last entry is an empty file `end`: an
 * archive that was cut between two entries lacks it. Symbolic links are copied as such.
 * @param stats of `path`
 * @throws CopyError naming the file
 */
export async function* packTree(
  path: string,
  stats: Stats,
  { name, end, tally, signal }: PackOptions,
): AsyncGenerator<Buffer> {
  const state = { tally, signal };
  yield* pack(path, name, stats, state);
  yield tarHeader({ type: 'File', path: end, mode: 0o600, mtime: new Date(0), size: 0 });
  yield TAR_END;
}

export type PackOptions = {
  readonly name: string;
  readonly end: string;
  readonly tally: CopyTally;
  readonly signal?: AbortSignal | undefined;
};
type State = Pick<PackOptions, 'tally' | 'signal'>;

async function* pack(path: string, name: string, stats: Stats, state: State): AsyncGenerator<Buffer> {
  state.signal?.throwIfAborted();
  const { mode, mtime } = stats;
  if (stats.isDirectory()) {
    yield tarHeader({ type: 'Directory', path: `${name}/`, mode, mtime, size: 0 });
    const folder = await opendir(path).catch((error: unknown) => Promise.reject(hostError(path, error)));
    for await (const { name: below } of folder) {
      const child = join(path, below);
      // Names that are no UTF-8 are found by none.
      yield* pack(child, `${name}/${below}`, await statHost(child, false), state);
    }
  } else if (stats.isSymbolicLink()) {
    const target = await readlink(path).catch((error: unknown) => Promise.reject(hostError(path, error)));
    yield tarHeader({ type: 'SymbolicLink', path: name, target, mode, mtime, size: 0 });
    state.tally.files++;
  } else if (stats.isFile()) yield* packFile(path, name, state);
  else skip(state.tally, path);
}

async function* packFile(path: string, name: string, { tally, signal }: State): AsyncGenerator<Buffer> {
  // What has become a link or a pipe since it was looked at neither leads elsewhere nor waits.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const file = await open(path, flags).catch((error: unknown) => Promise.reject(hostError(path, error)));
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw new CopyError({ side: 'host', path }, 'it changed while it was read');
    const { mode, mtime, size } = stats;
    yield tarHeader({ type: 'File', path: name, mode, mtime, size });
    for (let at = 0; at < size;) {
      signal?.throwIfAborted();
      const buffer = Buffer.allocUnsafe(Math.min(PIECE, size - at));
      const { bytesRead } = await file
        .read(buffer, 0, buffer.length, at)
        .catch((error: unknown) => Promise.reject(hostError(path, error)));
      if (bytesRead === 0) throw new CopyError({ side: 'host', path }, 'it became shorter while it was read');
      at += bytesRead;
      tally.bytes += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
    tally.files++;
    // A stream of bytes stands still at a piece that has none.
    const padding = tarPadding(size);
    if (padding.length > 0) yield padding;
  } finally {
    await file.close();
  }
}

export const hostError = (path: string, error: unknown): CopyError =>
  error instanceof CopyError
    ? error
    : new CopyError({ side: 'host', path }, reasonOf(error), { cause: error });
