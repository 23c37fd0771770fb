/**
 * An image with all that lies below it. The names of backing files come out of images, which may come from anywhere:
 * they are file names and nothing else, and stay within folders that the caller knows.
 */
import { realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, relative } from 'node:path';
import type { IoRing } from '../../kvm/io-ring.ts';
import { StorageError, type Disk } from '../disk.ts';
import { openRaw } from '../raw.ts';
import { changeOf } from './backing-stamp.ts';
import { lockOpenFile } from '../file-lock.ts';
import { openError } from '../open-error.ts';
import { checkImage } from './check.ts';
import { INCOMPATIBLE } from './format.ts';
import type { Header } from './header.ts';
import { RingFile } from './host-file.ts';
import { openImage, readHeader, type OpenImageOptions } from './open.ts';
import type { Qcow2Disk } from './qcow2-disk.ts';

export type ImageFormat = 'raw' | 'qcow2';

export type ChainPolicy = {
  /** Folders that backing files may be in, besides the folder of the image that names them. */
  readonly folders?: readonly string[];
  /** Backing files may be anywhere: for images that this user made or looked at. Default false */
  readonly trusted?: boolean;
  /** Open although a backing file was written to since the overlay was made. Default false */
  readonly acceptChanged?: boolean;
};

export type OpenQcow2Options = OpenImageOptions &
  ChainPolicy & {
    readonly path: string;
    /** default false; backing files are always opened read-only */
    readonly readOnly?: boolean;
    /** whether all files are locked against others; not where the caller has done so. Default true */
    readonly lock?: boolean;
  };

/** A layer of a chain, the top first. */
export type Layer = {
  readonly path: string;
  readonly format: ImageFormat;
  /** device and inode */
  readonly identity: string;
  /** of qcow2 */
  readonly header?: Header;
};

/** Layers that one disk may have. Each costs a lookup for every read of what no layer has. */
const MAX_LAYERS = 64;

/** Opens an image and what is below it. @throws StorageError, with the chain in its message */
export async function openQcow2(ring: IoRing, options: OpenQcow2Options): Promise<Qcow2Disk> {
  const { path, readOnly = false, lock = true, log } = options;
  const layers = resolveChain(ring, path, 'qcow2', options);
  let below: Disk | undefined;
  let top: RingFile | undefined;
  try {
    for (const [index, layer] of [...layers.entries()].slice(1).reverse()) {
      const names = layers.slice(0, index + 1).map((each) => each.path);
      below = await openLayer(ring, layer, below, names, options);
    }
    top = new RingFile(ring, path, readOnly);
    if (lock) {
      lockOpenFile(top.fd, path, readOnly ? 'read' : 'write', log);
      // From here on nobody changes them.
      checkUnchanged(layers, resolveChain(ring, path, 'qcow2', options));
    }
    if (!readOnly) await countAgain(top, layers[0]!, options);
  } catch (error) {
    top?.close();
    await below?.close();
    throw error;
  }
  try {
    return await openImage(top, below, options);
  } catch (error) {
    await below?.close();
    throw error;
  }
}

async function openLayer(
  ring: IoRing,
  { path, format }: Layer,
  below: Disk | undefined,
  names: readonly string[],
  options: OpenQcow2Options,
): Promise<Disk> {
  const { lock = true, log } = options;
  try {
    const common = { readOnly: true, cache: 'writeback', lock, log } as const;
    if (format === 'raw') return openRaw(ring, path, common);
    const file = new RingFile(ring, path, true);
    try {
      if (lock) lockOpenFile(file.fd, path, 'read', log);
    } catch (error) {
      file.close();
      throw error;
    }
    return await openImage(file, below, { ...options, cache: 'writeback' });
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    throw refuser(names[0]!, names)(error.code, `backing file ${error.message}`, error.hint);
  }
}

/**
 * Between looking at the files and locking them, somebody may have put another one below.
 * @throws StorageError
 */
export function checkUnchanged(before: readonly Layer[], now: readonly Layer[]): void {
  const isSame = (layer: Layer, i: number): boolean =>
    now[i]?.path === layer.path && now[i].format === layer.format && now[i].identity === layer.identity;
  if (before.length === now.length && before.every(isSame)) return;
  throw new StorageError(before[0]!.path, 'EAGAIN', 'was changed by somebody else meanwhile', 'try it again');
}

/**
 * "Dirty bit": the image has lazy refcounts and was not closed. Its refcounts are counted anew, as the format has it.
 */
async function countAgain(file: RingFile, { path, header }: Layer, options: OpenQcow2Options): Promise<void> {
  if (header === undefined || (header.incompatible & INCOMPATIBLE.dirty) === 0) return;
  options.log?.(`${path}: the image was not closed: its refcounts are counted anew`);
  await checkImage(file, { repair: 'all' });
}

/**
 * Finds all layers, without opening them for use.
 * @returns the image itself first
 * @throws StorageError where one is missing, is not what was recorded, or must not be used
 */
export function resolveChain(
  ring: IoRing,
  path: string,
  format: ImageFormat,
  policy: ChainPolicy = {},
): Layer[] {
  const layers: Layer[] = [];
  const seen = new Set<string>();
  let next: { path: string; format: ImageFormat } | undefined = { path, format };
  while (next !== undefined) {
    const here: { path: string; format: ImageFormat } = next;
    const names = [...layers.map((layer) => layer.path), here.path];
    const refuse = refuser(path, names);
    const stat = statOf(here.path, refuse);
    const identity = `${stat.dev}:${stat.ino}`;
    if (seen.has(identity)) throw refuse('ELOOP', 'the backing files form a loop', LOOP_HINT);
    seen.add(identity);
    if (layers.length === MAX_LAYERS)
      throw refuse(
        'ELOOP',
        `there are more than ${MAX_LAYERS} layers`,
        'join some: `tsvm disk commit` or `rebase`',
      );
    if (!stat.isFile() && layers.length > 0 && !(stat.isBlockDevice() && policy.trusted === true))
      throw refuse('EINVAL', 'a backing file must be a regular file', 'copy what it names to a file');
    if (here.format === 'raw') {
      layers.push({ ...here, identity });
      return layers;
    }
    const header = headerOf(ring, here.path, refuse);
    layers.push({ ...here, identity, header });
    next = header.backingFile === undefined ? undefined : backingOf(here.path, header, names, policy, path);
  }
  return layers;
}

const LOOP_HINT = 'put one of them on another file: `tsvm disk rebase --unsafe`';

type Refuse = (code: string, message: string, hint?: string) => StorageError;

function refuser(top: string, names: readonly string[]): Refuse {
  const chain = names.length > 1 ? ` (chain: ${names.join(' <- ')})` : '';
  return (code, message, hint) => {
    // Errors about the image itself begin with its name already.
    const reason = message.startsWith(`${top}: `) ? message.slice(top.length + 2) : message;
    return new StorageError(top, code, `${reason}${chain}`, hint);
  };
}

function statOf(path: string, refuse: Refuse): ReturnType<typeof statSync> & object {
  try {
    return statSync(path);
  } catch (error) {
    const { code, message, hint } = openError(path, error);
    throw refuse(code, message, hint);
  }
}

function headerOf(ring: IoRing, path: string, refuse: Refuse): Header {
  try {
    const file = new RingFile(ring, path, true);
    try {
      return readHeader(file).header;
    } finally {
      file.close();
    }
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    throw refuse(
      error.code,
      error.message,
      error.hint ?? '`tsvm disk info FILE` tells what a file looks like',
    );
  }
}

/** Where the file below is and what it is. @throws StorageError where it must not be used */
function backingOf(
  path: string,
  header: Header,
  names: readonly string[],
  policy: ChainPolicy,
  top: string,
): { path: string; format: ImageFormat } {
  const name = header.backingFile!;
  const refuse = refuser(top, [...names, name]);
  // As QEMU tells protocols from files: a colon before the first slash.
  if (/^[^/]*:/.test(name)) {
    const hint = 'copy what it names to a file, and put the overlay on that: `tsvm disk rebase --unsafe`';
    throw refuse('EPERM', 'a backing file must be a file, without a protocol', hint);
  }
  const format = header.backingFormat;
  if (format === undefined) {
    throw refuse(
      'EINVAL',
      'the format of the backing file is not recorded, and is never guessed',
      `record it: \`tsvm disk rebase --unsafe --backing ${name} --backing-format raw|qcow2 ${path}\``,
    );
  }
  if (format !== 'raw' && format !== 'qcow2')
    throw refuse(
      'ENOTSUP',
      `backing files of format ${JSON.stringify(format)} are not supported`,
      'convert the backing file to raw or qcow2 (`qemu-img convert`), and name that: `tsvm disk rebase --unsafe`',
    );
  const place = isAbsolute(name) ? name : join(dirname(path), name);
  let real: string;
  try {
    real = realpathSync(place);
  } catch (error) {
    throw refuse(
      openError(place, error).code,
      `backing file ${place}: there is no such file`,
      'put it there, or tell where it is: ' +
        `\`tsvm disk rebase --unsafe --backing FILE --backing-format ${format} ${path}\``,
    );
  }
  const folders = [dirname(realpathSync(path)), ...(policy.folders ?? []).map(realFolder)];
  if (policy.trusted !== true && !folders.some((folder) => isWithin(folder, real))) {
    throw refuse(
      'EPERM',
      'the backing file is outside the folders where images may be',
      'if you know this image and what it names, allow it: `,trust-backing` for --disk, `--trust-backing` for `tsvm disk`',
    );
  }
  const change = changeOf(header, real);
  if (change !== undefined && policy.acceptChanged !== true) {
    throw refuse(
      'ESTALE',
      `the backing file was changed after the overlay was made: ${change}`,
      'restore the backing file: what the overlay holds are differences to what it was. Where its contents are the same ' +
        `(it was copied): \`tsvm disk rebase --unsafe --backing ${name} --backing-format ${format} ${path}\``,
    );
  }
  return { path: place, format };
}

function realFolder(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function isWithin(folder: string, path: string): boolean {
  const rest = relative(folder, path);
  return rest !== '' && !rest.startsWith('..') && !isAbsolute(rest);
}
