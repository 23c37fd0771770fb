import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
  type BigIntStats,
} from 'node:fs';
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { bytesSource, fdSource, readAll, type ByteSource } from './source.ts';
import type { UnpackedKernel } from './unpack.ts';

/**
 * Unpacked kernels, kept by the SHA-256 of the packed file. One entry is one file, written under another name and
 * renamed, with a trailer that has its checksum: whoever finds it by its name finds all of it, or sees that it is
 * damaged and makes it anew. No locks; processes that unpack the same kernel at the same time each put the same file.
 *
 * To hash the packed file and to check an entry takes 100 ms and more, so both are skipped where they were done once
 * and neither file has changed since, by inode, size and times (`*.seen`), the way version control systems do it.
 */

/** Entries kept; the oldest go first. At some 60 MiB each that is 1 GiB. */
const MAX_ENTRIES = 16;
const MAX_SEEN = 64;
/** A temporary file this old was left by a process that died. */
const STALE_AFTER_MS = 3_600_000;
/** Changes closer together than a file system's time stamps tell apart are not seen by them. */
const SETTLED_AFTER_MS = 2000;
const CHUNK = 2 ** 20;

/** Trailer of an entry: magic, CRC-32 of the content, content's size, SHA-256 of the packed file. */
const TRAILER_SIZE = 56;
const TRAILER_MAGIC = Buffer.from('tsvm-krn');

/** Where unpacked kernels are kept by default: `$TSVM_CACHE/kernels`, else `tsvm/kernels` in the XDG cache directory. */
export function kernelCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  const own = env['TSVM_CACHE'];
  if (own !== undefined && own !== '') return join(own, 'kernels');
  const xdg = env['XDG_CACHE_HOME'];
  // The XDG Base Directory Specification has relative paths ignored.
  const root = xdg !== undefined && isAbsolute(xdg) ? xdg : join(homedir(), '.cache');
  return join(root, 'tsvm', 'kernels');
}

export type CacheOptions = {
  readonly dir: string;
  /** tells entries of the same packed file apart; the entry's file name suffix */
  readonly variant: string;
  /** for tests: how long a file has to be unchanged to be taken for seen, in milliseconds */
  readonly settledAfter?: number;
};

/**
 * The unpacked form of `packed`, from the cache or by `unpack`, and then kept. What comes with a note is not kept, and
 * a cache that cannot be written is done without. `packed` stays open.
 * @throws what `unpack` throws
 */
export async function cachedUnpack(
  packed: ByteSource & { readonly fd: number },
  options: CacheOptions,
  unpack: (packed: ByteSource) => Promise<UnpackedKernel>,
): Promise<{ source: ByteSource; note?: string }> {
  const { name } = packed;
  const seen = openSeen(packed, options);
  if (seen !== undefined) return { source: seen };

  const before = fstatSync(packed.fd, { bigint: true });
  const bytes = readAll(packed);
  const key = createHash('sha256').update(bytes).digest();
  const path = join(options.dir, `${key.toString('hex')}.${options.variant}`);
  const kept = openChecked(path, key, name);
  if (kept !== undefined) {
    remember(packed.fd, before, key, kept.fd, options);
    return { source: kept.source };
  }
  const unpacked = await unpack(bytesSource(name, bytes));
  if (unpacked.note !== undefined) return { source: bytesSource(name, unpacked.bytes), note: unpacked.note };
  const put = putEntry(path, key, unpacked.bytes, options.dir);
  if (put === undefined) return { source: bytesSource(name, unpacked.bytes) };
  prune(options.dir, options.variant);
  return { source: fdSource(name, put, unpacked.bytes.length) };
}

/** Opens an entry and checks all of it. Undefined where there is none, or a damaged one. */
function openChecked(
  path: string,
  key: Buffer,
  name: string,
): { source: ByteSource; fd: number } | undefined {
  const fd = tryTo(() => openSync(path, 'r'));
  if (fd === undefined) return undefined;
  const size = tryTo(() => checkEntry(fd, key));
  if (size !== undefined) return { source: fdSource(name, fd, size), fd };
  closeSync(fd);
  return undefined;
}

/** @returns the content's size, undefined where the entry is damaged */
function checkEntry(fd: number, key: Buffer): number | undefined {
  const size = fstatSync(fd).size - TRAILER_SIZE;
  if (size <= 0) return undefined;
  const chunk = Buffer.alloc(CHUNK);
  let crc = 0;
  for (let at = 0; at < size;) {
    const count = readSync(fd, chunk, 0, Math.min(CHUNK, size - at), at);
    if (count === 0) return undefined;
    crc = crc32(chunk.subarray(0, count), crc);
    at += count;
  }
  const found = Buffer.alloc(TRAILER_SIZE);
  readSync(fd, found, 0, TRAILER_SIZE, size);
  return found.equals(trailer(size, crc, key)) ? size : undefined;
}

function trailer(size: number, crc: number, key: Buffer): Buffer {
  const bytes = Buffer.alloc(TRAILER_SIZE);
  TRAILER_MAGIC.copy(bytes);
  bytes.writeUInt32LE(crc, 8);
  bytes.writeBigUInt64LE(BigInt(size), 16);
  key.copy(bytes, 24);
  return bytes;
}

/** Writes an entry and puts it in place whole. @returns an open file for it, undefined where it cannot be written */
function putEntry(path: string, key: Buffer, bytes: Uint8Array, dir: string): number | undefined {
  const temporary = `${path}.${randomBytes(8).toString('hex')}.tmp`;
  let fd: number | undefined;
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    fd = openSync(temporary, 'wx+', 0o600);
    writeFileSync(fd, bytes);
    writeAll(fd, trailer(bytes.length, crc32(bytes), key));
    // The name must not outlive a crash that the content does not.
    fsyncSync(fd);
    renameSync(temporary, path);
    return fd;
  } catch {
    // A full or read-only disk: the kernel boots from memory.
    if (fd !== undefined) closeSync(fd);
    tryTo(() => rmSync(temporary, { force: true }));
    return undefined;
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
}

/** What tells a file from any other and from itself after a change. */
function identity(stat: BigIntStats): string {
  return [stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join(':');
}

/** A `.seen` file is named by the packed file's inode, so a changed file takes the place of its former state. */
function seenPath(stat: BigIntStats, { dir, variant }: CacheOptions): string {
  return join(dir, `${stat.dev}-${stat.ino}.${variant}.seen`);
}

/** The entry for a packed file that has not changed since both were checked. */
function openSeen(
  packed: ByteSource & { readonly fd: number },
  options: CacheOptions,
): ByteSource | undefined {
  const stat = fstatSync(packed.fd, { bigint: true });
  const line = tryTo(() => readFileSync(seenPath(stat, options), 'utf8'));
  const [file, key, entry] = line?.trim().split(' ') ?? [];
  if (file !== identity(stat) || key === undefined || !/^[0-9a-f]{64}$/.test(key)) return undefined;
  const fd = tryTo(() => openSync(join(options.dir, `${key}.${options.variant}`), 'r'));
  if (fd === undefined) return undefined;
  const found = fstatSync(fd, { bigint: true });
  if (identity(found) === entry) return fdSource(packed.name, fd, Number(found.size) - TRAILER_SIZE);
  closeSync(fd);
  return undefined;
}

/** Notes that both files are good as they are, unless one has changed so lately that a further change could not be seen. */
function remember(
  packedFd: number,
  before: BigIntStats,
  key: Buffer,
  entryFd: number,
  options: CacheOptions,
): void {
  const packed = fstatSync(packedFd, { bigint: true });
  const entry = fstatSync(entryFd, { bigint: true });
  const { settledAfter = SETTLED_AFTER_MS } = options;
  const settled = [packed, entry].every(({ ctimeMs }) => Date.now() - Number(ctimeMs) >= settledAfter);
  if (!settled || identity(packed) !== identity(before)) return;
  const path = seenPath(packed, options);
  const temporary = `${path}.${randomBytes(8).toString('hex')}.tmp`;
  tryTo(() => {
    writeFileSync(temporary, `${identity(packed)} ${key.toString('hex')} ${identity(entry)}\n`, {
      flag: 'wx',
    });
    renameSync(temporary, path);
  });
}

/** Keeps the directory small. Files that others have open stay readable for them. */
function prune(dir: string, variant: string): void {
  tryTo(() => {
    const files = readdirSync(dir).flatMap((name) => {
      const stat = tryTo(() => statSync(join(dir, name)));
      return stat === undefined ? [] : [{ name, mtime: stat.mtimeMs }];
    });
    const newestFirst = files.sort((a, b) => b.mtime - a.mtime);
    const old = [
      ...newestFirst.filter(({ name }) => name.endsWith(`.${variant}`)).slice(MAX_ENTRIES),
      ...newestFirst.filter(({ name }) => name.endsWith('.seen')).slice(MAX_SEEN),
      ...newestFirst.filter(
        ({ name, mtime }) => name.endsWith('.tmp') && Date.now() - mtime > STALE_AFTER_MS,
      ),
    ];
    for (const { name } of old) rmSync(join(dir, name), { force: true });
  });
}

/** The cache only saves time: whatever fails in it ends in unpacking again. */
function tryTo<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
