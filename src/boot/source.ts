import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { BootError } from './types.ts';

/** A file's bytes as the loaders see them: read piece by piece straight to where they belong, never past its end. */
export type ByteSource = {
  /** how messages call it: a path, mostly */
  readonly name: string;
  /** in bytes */
  readonly size: number;
  /**
   * Fills all of `target` from `offset` on.
   * @throws BootError where the file does not have these bytes (any more), or cannot be read
   */
  read(offset: number, target: Uint8Array): void;
  /** Gives back what the source holds open. May be called again. */
  close(): void;
};

/** What a file is for; decides which code its errors carry. */
export type SourceKind = 'kernel' | 'initrd';

const FAILED = { kernel: 'EKERNEL_FILE', initrd: 'EINITRD' } as const;
const TRUNCATED = { kernel: 'EKERNEL_TRUNCATED', initrd: 'EINITRD' } as const;

/** Node refuses to read 2 GiB and more in one call. */
const READ_LIMIT = 2 ** 30;

/** A file that is in memory already. */
export function bytesSource(name: string, bytes: Uint8Array, kind: SourceKind = 'kernel'): ByteSource {
  return {
    name,
    size: bytes.length,
    read(offset, target) {
      checkRange(name, bytes.length, offset, target.length, kind);
      target.set(bytes.subarray(offset, offset + target.length));
    },
    close: () => undefined,
  };
}

/**
 * Opens a regular file for reading. Does not block on a FIFO, reads nothing yet.
 * @throws BootError naming the file: EKERNEL_FILE or EINITRD
 */
export function openSource(path: string, kind: SourceKind = 'kernel'): ByteSource & { readonly fd: number } {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (error) {
    throw new BootError(FAILED[kind], `cannot open ${kind} ${path}: ${reason(error)}`);
  }
  const stat = fstatSync(fd);
  if (!stat.isFile()) {
    closeSync(fd);
    const what = stat.isDirectory() ? 'a directory' : 'no regular file';
    throw new BootError(FAILED[kind], `cannot use ${kind} ${path}: it is ${what}`);
  }
  return { ...fdSource(path, fd, stat.size, kind), fd };
}

/** The first `size` bytes of an open file; {@link ByteSource.close} closes `fd`. */
export function fdSource(name: string, fd: number, size: number, kind: SourceKind = 'kernel'): ByteSource {
  let open = true;
  return {
    name,
    size,
    read(offset, target) {
      checkRange(name, size, offset, target.length, kind);
      for (let done = 0; done < target.length;) {
        let count: number;
        try {
          count = readSync(fd, target, done, Math.min(target.length - done, READ_LIMIT), offset + done);
        } catch (error) {
          throw new BootError(FAILED[kind], `cannot read ${kind} ${name}: ${reason(error)}`);
        }
        if (count === 0) throw new BootError(TRUNCATED[kind], `${name} became shorter while it was read`);
        done += count;
      }
    },
    close() {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** All of a source in one new buffer. */
export function readAll(source: ByteSource): Uint8Array {
  return readRange(source, 0, source.size);
}

/** A part of a source in a new buffer. @throws BootError where the file ends before */
export function readRange(source: ByteSource, offset: number, length: number): Uint8Array {
  // The source checks before it fills; the check here is for the allocation.
  checkRange(source.name, source.size, offset, length, 'kernel');
  const bytes = new Uint8Array(length);
  source.read(offset, bytes);
  return bytes;
}

/** What the system says of a failed call, without Node's decoration: `ENOENT: no such file or directory`. */
export function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'syscall' in error ? (/^[A-Z0-9]+: [^,]+/.exec(error.message)?.[0] ?? error.message) : error.message;
}

function checkRange(name: string, size: number, offset: number, length: number, kind: SourceKind): void {
  if (offset >= 0 && length >= 0 && Number.isSafeInteger(offset + length) && offset + length <= size) return;
  throw new BootError(
    TRUNCATED[kind],
    `${name} is truncated: ${length} bytes at ${offset} are missing, it has ${size}`,
  );
}
