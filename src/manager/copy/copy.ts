/** Files and folders between this host and a guest: tar archives through a command in the guest. */
import { randomBytes } from 'node:crypto';
import { rmSync, type Stats } from 'node:fs';
import { mkdtemp, realpath, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, posix, resolve } from 'node:path';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { VmExec, VmExecOptions, VmExecResult } from '../vms/exec.ts';
import { CopyError } from './errors.ts';
import { COPY_IN, COPY_OUT, END, MARK_LENGTH, READ_FILE, TREE, WRITE_FILE } from './guest-scripts.ts';
import {
  hostError,
  newTally,
  packTree,
  sizeOfTree,
  statHost,
  type CopyTally,
  type PackOptions,
} from './host-source.ts';
import { placeTree, unpackTree, type UnpackedTree } from './host-target.ts';
import { TarError } from './tar-reader.ts';

export type CopyProgress = {
  /** of files, so far */
  readonly bytes: number;
  /** undefined where it is not known */
  readonly total: number | undefined;
};

export type CopyOptions = Pick<VmExecOptions, 'signal' | 'timeout' | 'wait'> & {
  /** copy what a symbolic link leads to, where the source is one; default false: the link */
  readonly followLink?: boolean;
  /** who copies belong to in the guest, `USER[:GROUP]`; default root */
  readonly owner?: string;
  readonly onProgress?: (progress: CopyProgress) => void;
};

export type CopyResult = {
  /** how many files and symbolic links */
  readonly files: number;
  /** of files */
  readonly bytes: number;
  /** paths of what is neither file, folder nor symbolic link, and was not copied: the first 20 */
  readonly skipped: readonly string[];
};

/** A guest to copy to and from. */
export type CopyGuest = {
  readonly name: string;
  readonly exec: (command: string, args: readonly string[], options: VmExecOptions) => VmExec;
};

/** of what a command in the guest says about an error, in characters */
const SAID = 2000;
const OWNER = /^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$/;

/**
 * Copies a file or folder of this host into the guest. What is there is replaced when all has come.
 * @param source `FOLDER/.` is what is in a folder, without itself
 * @param target path in the guest, from its root folder on; in a folder that is there the copy has its own name
 * @throws CopyError, ControlError, the signal's reason
 */
export async function copyIn(
  guest: CopyGuest,
  source: string,
  target: string,
  options: CopyOptions = {},
): Promise<CopyResult> {
  const { owner = '', followLink = false, onProgress, signal } = options;
  const to = guestPath(guest, target);
  if (owner !== '' && !OWNER.test(owner))
    throw new CopyError(to.where, `'${owner}' is no owner: USER or USER:GROUP`);
  const isContents = /(^|\/)\.\/*$/.test(source);
  const isFollowed = followLink || isContents || source.endsWith('/');
  const stats = await statHost(source, isFollowed);
  const real = isFollowed ? await realpath(source) : source;
  if ((isContents || source.endsWith('/')) && !stats.isDirectory())
    throw new CopyError({ side: 'host', path: source }, 'this is no folder');
  if (!stats.isDirectory() && !stats.isFile() && !stats.isSymbolicLink())
    throw new CopyError({ side: 'host', path: source }, 'this is neither a file nor a folder');
  const tally = newTally();
  const total = onProgress && (await sizeOfTree(real, stats));
  const pack: PackOptions = { name: TREE, end: END, tally, signal };
  const kind = isContents ? 'contents' : stats.isDirectory() ? 'folder' : 'file';
  const args = [to.path, basename(resolve(source)), kind, owner];
  const input = Readable.from(watched(packTree(real, stats, pack), tally, total, onProgress), {
    objectMode: false,
  });
  await finished(guest, to, COPY_IN, args, input, options);
  return resultOf(tally);
}

/**
 * Writes what a stream has into one file of the guest, which is there, or replaced, when all has come.
 * @throws CopyError, ControlError, the signal's reason, the stream's error
 */
export async function writeGuestFile(
  guest: CopyGuest,
  source: Readable,
  target: string,
  options: CopyOptions = {},
): Promise<CopyResult> {
  const tally = newTally();
  const to = guestPath(guest, target);
  const mark = randomBytes(MARK_LENGTH / 2).toString('hex');
  const marked = async function* (): AsyncGenerator<Buffer> {
    for await (const chunk of source as AsyncIterable<Buffer | string>) {
      const bytes = Buffer.from(chunk);
      tally.bytes += bytes.length;
      if (bytes.length > 0) yield bytes;
    }
    yield Buffer.from(mark);
  };
  const input = Readable.from(watched(marked(), tally, undefined, options.onProgress), { objectMode: false });
  await finished(guest, to, WRITE_FILE, [to.path, '', 'stream', mark], input, options);
  tally.files = 1;
  return resultOf(tally);
}

/**
 * Copies a file or folder out of the guest. What is there is replaced when all has come.
 * @param source path in the guest, from its root folder on; `FOLDER/.` is what is in a folder, without itself
 * @param target path on this host; in a folder that is there the copy has its own name
 * @throws CopyError, ControlError, the signal's reason
 */
export async function copyOut(
  guest: CopyGuest,
  source: string,
  target: string,
  options: CopyOptions = {},
): Promise<CopyResult> {
  const { signal, followLink = false, onProgress } = options;
  const from = guestPath(guest, source);
  const isContents = /(^|\/)\.\/*$/.test(source) || posix.resolve('/', source) === '/';
  const place = await placeOf(target, isContents ? undefined : posix.basename(from.path));
  const temporary = await temporaryFolder(place.folder);
  try {
    const tree = join(temporary.path, TREE);
    const tally = newTally();
    const plain = from.path.replace(/(.)\/+$/, '$1');
    const args = isContents
      ? [plain, '', plain, '.']
      : [from.path, followLink ? 'yes' : '', posix.dirname(plain), `./${posix.basename(plain)}`];
    let total: number | undefined;
    const unpacked = await received(guest, from, COPY_OUT, args, options, (input) =>
      unpackTree(
        watched(input, tally, () => total, onProgress),
        tree,
        {
          isNamed: !isContents,
          tally,
          signal,
          // Of one file it is known from the beginning.
          onEntry: (size) => {
            total = tally.files === 0 && size > 0 ? size : undefined;
          },
        },
      ),
    );
    await put(tree, place.target, unpacked);
    return resultOf(tally);
  } finally {
    await temporary.remove();
  }
}

/** Writes what one file of the guest has to a stream, which is left open. @throws as {@link copyOut} */
export async function readGuestFile(
  guest: CopyGuest,
  source: string,
  target: Writable,
  options: CopyOptions = {},
): Promise<CopyResult> {
  const from = guestPath(guest, source);
  const tally = newTally();
  const take = async (input: AsyncIterable<Buffer>): Promise<void> => {
    const counted = async function* (): AsyncGenerator<Buffer> {
      for await (const bytes of input) {
        tally.bytes += bytes.length;
        yield bytes;
      }
    };
    await pipeline(watched(counted(), tally, undefined, options.onProgress), target, { end: false });
  };
  await received(guest, from, READ_FILE, [from.path], options, take);
  tally.files = 1;
  return resultOf(tally);
}

type Where = ConstructorParameters<typeof CopyError>[0];
type GuestPath = { readonly path: string; readonly where: Where };

/** A path in the guest, from its root folder on; a slash at its end says that it is a folder. */
function guestPath({ name }: CopyGuest, path: string): GuestPath {
  const where: Where = { side: 'guest', path: `${name}:${path}` };
  if (path === '') throw new CopyError(where, 'there is no path after the colon');
  if (path.includes('\0')) throw new CopyError(where, 'this is no path');
  const whole = posix.resolve('/', path);
  return { path: /\/\.?$/.test(path) && whole !== '/' ? `${whole}/` : whole, where };
}

/** Where on this host the copy of something goes, and the folder that is to hold it until then. */
async function placeOf(
  target: string,
  name: string | undefined,
): Promise<{ readonly target: string; readonly folder: string }> {
  const found: Stats | undefined = await stat(target).catch(() => undefined);
  if (found?.isDirectory() === true) {
    const folder = await realpath(target);
    return { target: name === undefined ? folder : join(folder, name), folder };
  }
  if (target.endsWith('/')) throw new CopyError({ side: 'host', path: target }, 'there is no such folder');
  const folder = dirname(resolve(target));
  const above = await stat(folder).catch((error: unknown) => Promise.reject(hostError(target, error)));
  if (!above.isDirectory())
    throw new CopyError({ side: 'host', path: target }, 'what it would be in is no folder');
  return { target: resolve(target), folder };
}

/** A folder that is gone at the end, also where a signal is that. */
async function temporaryFolder(
  folder: string,
): Promise<{ readonly path: string; readonly remove: () => Promise<void> }> {
  const path = await mkdtemp(join(folder, '.tsvm-cp-')).catch((error: unknown) =>
    Promise.reject(hostError(folder, error)),
  );
  const atExit = (): void => rmSync(path, { recursive: true, force: true });
  process.on('exit', atExit);
  return {
    path,
    remove: async () => {
      await rm(path, { recursive: true, force: true });
      process.off('exit', atExit);
    },
  };
}

async function put(tree: string, target: string, { isFolder, finish }: UnpackedTree): Promise<void> {
  const there = await stat(target).catch(() => undefined);
  await placeTree(tree, target);
  // Folders that were there keep the permissions that they have.
  if (isFolder && there === undefined) await finish(target);
}

/** Runs a script that reads `input`. */
async function finished(
  guest: CopyGuest,
  { where }: GuestPath,
  script: string,
  args: readonly string[],
  input: Readable,
  options: CopyOptions,
): Promise<void> {
  const said = new Said();
  try {
    const run = guest.exec('/bin/sh', ['-c', script, 'sh', ...args], { ...limitsOf(options), input });
    for await (const { text } of run) said.add(text);
    said.check(await run, where);
  } finally {
    input.destroy();
  }
}

/** Runs a script that writes what `take` takes. */
async function received<T>(
  guest: CopyGuest,
  { where }: GuestPath,
  script: string,
  args: readonly string[],
  options: CopyOptions,
  take: (input: AsyncIterable<Buffer>) => Promise<T>,
): Promise<T> {
  const said = new Said();
  const run = guest.exec('/bin/sh', ['-c', script, 'sh', ...args], limitsOf(options));
  let taken: T;
  try {
    taken = await take(stdoutOf(run, said));
  } catch (error) {
    if (!(error instanceof TarError)) throw error;
    // Where it could not be written, the guest tells why.
    if (error.cut) said.check(await run, where);
    throw new CopyError(where, error.message, { cause: error });
  }
  said.check(await run, where);
  return taken;
}

async function* stdoutOf(run: VmExec, said: Said): AsyncGenerator<Buffer> {
  for await (const { stream, bytes, text } of run) {
    if (stream === 'stdout') yield bytes;
    else said.add(text);
  }
}

const limitsOf = ({ signal, timeout, wait }: CopyOptions): VmExecOptions => ({
  ...(signal !== undefined && { signal }),
  ...(timeout !== undefined && { timeout }),
  ...(wait !== undefined && { wait }),
});

/** What a script in the guest has to say about an error. */
class Said {
  #text = '';

  add(text: string): void {
    this.#text = (this.#text + text).slice(-SAID);
  }

  /** @throws CopyError unless the script has done it */
  check({ exitCode, signal }: VmExecResult, where: Where): void {
    if (exitCode === 0) return;
    const lines = this.#text
      .split('\n')
      .map((line) => line.replace(`tar: ${TREE}/`, 'tar: ').trim())
      .filter((line) => line !== '');
    // Logs go on being written: tar has what there was.
    if (exitCode === 1 && lines.length > 0 && lines.every((line) => CHANGED.test(line))) return;
    const how = exitCode === undefined ? `signal ${signal}` : `status ${exitCode}`;
    throw new CopyError(
      where,
      lines.length === 0 ? `the guest's command ended with ${how}` : lines.join('; '),
    );
  }
}

/** GNU tar's words for files that change meanwhile; its status is 1 then, and 2 where it has failed. */
const CHANGED = /^tar: .*: ([Ff]ile (changed as we read it|removed before we read it)|socket ignored)$/;

async function* watched(
  chunks: AsyncIterable<Buffer>,
  tally: CopyTally,
  total: number | undefined | (() => number | undefined),
  onProgress: CopyOptions['onProgress'],
): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    yield chunk;
    onProgress?.({ bytes: tally.bytes, total: typeof total === 'function' ? total() : total });
  }
}

const resultOf = ({ files, bytes, skipped }: CopyTally): CopyResult => ({ files, bytes, skipped });
