import { chmodSync, existsSync, lstatSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { systemCode } from '../kvm/system-code.ts';

/** What `sun_path` of a socket address has room for, with the NUL that ends it left out (unix(7)). */
export const SOCKET_PATH_LIMIT = 107;

/** A socket that cannot be made. */
export class PortSocketError extends Error {
  override readonly name = 'PortSocketError';
  readonly code: string;
  readonly path: string;

  constructor(path: string, code: string, message: string) {
    super(message);
    this.path = path;
    this.code = code;
  }
}

export type ListenOptions = {
  readonly path: string;
  /** whose socket it is, in messages */
  readonly of: string;
  /** bytes that are appended to the path for other sockets; default 0 */
  readonly suffix?: number;
};

/**
 * Has a server listen on a unix socket for its owner alone (mode 0600). One that nobody listens on any more, as a
 * process that was killed leaves it, is replaced. The server removes the socket when it is closed.
 * @throws PortSocketError, with the reason for a person
 */
export async function listenOnUnixSocket(server: Server, options: ListenOptions): Promise<void> {
  const { path, suffix = 0 } = options;
  const length = Buffer.byteLength(path);
  const limit = SOCKET_PATH_LIMIT - suffix;
  if (length === 0 || path.includes('\0')) {
    throw socketError(options, 'EINVAL', 'a socket needs a path without NUL characters');
  }
  if (length > limit) {
    throw socketError(
      options,
      'ENAMETOOLONG',
      `${length} bytes, and ${suffix === 0 ? "a socket's path" : 'this one'} has at most ${limit}: use a shorter one, such as one relative to the working directory`,
    );
  }
  try {
    await bind(server, path);
  } catch (error) {
    if (systemCode(error) !== 'EADDRINUSE') throw describe(options, error);
    await removeStale(options);
    await bind(server, path).catch((again: unknown) => {
      throw describe(options, again);
    });
  }
  // Bind and listen have made it; without a umask of our own it may be open to others until here.
  chmodSync(path, 0o600);
  server.on('error', () => undefined);
}

/** Makes the socket; nobody else may connect to it from its first moment on. */
async function bind(server: Server, path: string): Promise<void> {
  // Binding is done within listen(). A worker thread has no umask.
  const umask = isMainThread ? process.umask(0o177) : undefined;
  try {
    server.listen(path);
  } finally {
    if (umask !== undefined) process.umask(umask);
  }
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.once('listening', () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** Removes a socket that nobody listens on. @throws PortSocketError where it is another file, or somebody does */
async function removeStale(options: ListenOptions): Promise<void> {
  const { path } = options;
  const before = lstatSync(path, { throwIfNoEntry: false });
  if (before === undefined) return;
  if (!before.isSocket())
    throw socketError(options, 'EEXIST', 'there is a file of this name, and it is no socket');
  const refused = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error) => resolve(systemCode(error) === 'ECONNREFUSED'));
  });
  if (!refused) throw socketError(options, 'EADDRINUSE', 'another process listens on it');
  const now = lstatSync(path, { throwIfNoEntry: false });
  if (now?.ino === before.ino) unlinkSync(path);
}

function describe(options: ListenOptions, error: unknown): PortSocketError {
  // libuv says EACCES for a directory that is not there.
  const isMissing = systemCode(error) === 'EACCES' && !existsSync(dirname(options.path));
  const code = isMissing ? 'ENOENT' : (systemCode(error) ?? 'EIO');
  const reasons: Readonly<Record<string, string>> = {
    EACCES: 'no permission to make a socket there',
    ENOENT: 'its directory does not exist',
    ENOTDIR: 'what should be its directory is a file',
    EROFS: 'its file system is read-only',
    EADDRINUSE: 'another process listens on it',
  };
  const message = error instanceof Error ? error.message : String(error);
  return socketError(options, code, reasons[code] ?? message);
}

function socketError({ path, of }: ListenOptions, code: string, reason: string): PortSocketError {
  return new PortSocketError(path, code, `cannot make the socket '${path}' of ${of}: ${reason}`);
}
