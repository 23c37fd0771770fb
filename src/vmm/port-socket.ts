import { chmodSync, existsSync, lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread } from 'node:worker_threads';
import type { HostPort } from './host-port.ts';

/** What `sun_path` of a socket address has room for, with the NUL that ends it left out (unix(7)). */
const PATH_LIMIT = 107;
/** How often a client that sends no more is looked after. */
const PROBE_INTERVAL_MS = 250;
/** A client is taken to be there unless a look at it fails within this time. */
const PROBE_LIMIT_MS = 50;
/** What clients get to take the last output, once the VM has ended. */
const CLOSING_LIMIT_MS = 1000;

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

export type PortSocketOptions = {
  /** takes a line where a client is turned away */
  readonly log?: (line: string) => void;
};

/**
 * A unix socket for a named port, for its owner alone (mode 0600). A client that connects opens the port to the guest
 * until it goes. There is one at a time: another one is turned away at once, where QEMU would leave it in the socket's
 * backlog. A client may shut its sending side down and still read.
 */
export class PortSocket {
  readonly path: string;
  readonly #port: HostPort;
  readonly #server: Server;
  readonly #log: (line: string) => void;
  #client: Socket | undefined;
  #stream: Duplex | undefined;
  /** clients are looked at one after the other */
  #turn: Promise<void> = Promise.resolve();

  /** @throws PortSocketError, with the reason for a person */
  static async listen(path: string, port: HostPort, options: PortSocketOptions = {}): Promise<PortSocket> {
    const socket = new PortSocket(path, port, options.log ?? (() => undefined));
    await socket.#listen();
    return socket;
  }

  private constructor(path: string, port: HostPort, log: (line: string) => void) {
    this.path = path;
    this.#port = port;
    this.#log = log;
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
      client.on('error', () => undefined);
      this.#turn = this.#turn.then(() => this.#accept(client));
    });
  }

  /** Whether a client is connected. */
  get isConnected(): boolean {
    return this.#client !== undefined;
  }

  /** Lets the client have the last output, for up to a second, and removes the socket. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await this.#turn;
    this.#port.close();
    if (this.#client !== undefined) {
      const limit = new AbortController();
      await Promise.race([
        closed,
        sleep(CLOSING_LIMIT_MS, undefined, { signal: limit.signal }).catch(() => undefined),
      ]);
      limit.abort();
      this.#drop();
    }
    await closed;
  }

  async #listen(): Promise<void> {
    const length = Buffer.byteLength(this.path);
    if (length === 0 || this.path.includes('\0')) {
      throw this.#error('EINVAL', 'a socket needs a path without NUL characters');
    }
    if (length > PATH_LIMIT) {
      throw this.#error(
        'ENAMETOOLONG',
        `${length} bytes, and a socket's path has at most ${PATH_LIMIT}: use a shorter one, such as one relative to the working directory`,
      );
    }
    try {
      await this.#bind();
    } catch (error) {
      if (codeOf(error) !== 'EADDRINUSE') throw this.#describe(error);
      await this.#removeStale();
      await this.#bind().catch((again: unknown) => {
        throw this.#describe(again);
      });
    }
    // Bind and listen have made it; without a umask of our own it may be open to others until here.
    chmodSync(this.path, 0o600);
    this.#server.on('error', () => undefined);
  }

  /** Makes the socket; nobody else may connect to it from its first moment on. */
  async #bind(): Promise<void> {
    const server = this.#server;
    // Binding is done within listen(). A worker thread has no umask.
    const umask = isMainThread ? process.umask(0o177) : undefined;
    try {
      server.listen(this.path);
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
  async #removeStale(): Promise<void> {
    const before = lstatSync(this.path, { throwIfNoEntry: false });
    if (before === undefined) return;
    if (!before.isSocket()) throw this.#error('EEXIST', 'there is a file of this name, and it is no socket');
    const refused = await new Promise<boolean>((resolve) => {
      const probe = connect(this.path);
      probe.once('connect', () => {
        probe.destroy();
        resolve(false);
      });
      probe.once('error', (error) => resolve(codeOf(error) === 'ECONNREFUSED'));
    });
    if (!refused) throw this.#error('EADDRINUSE', 'another process listens on it');
    const now = lstatSync(this.path, { throwIfNoEntry: false });
    if (now?.ino === before.ino) unlinkSync(this.path);
  }

  async #accept(client: Socket): Promise<void> {
    if (client.destroyed) return;
    if (this.#client !== undefined && !(await this.#isGone(this.#client))) {
      client.destroy();
      this.#log(`port ${this.#port.name}: another client of ${this.path} was turned away, one is connected`);
      return;
    }
    // The one before may have gone with input that the guest never took.
    this.#drop();
    if (this.#port.isOpen) {
      client.destroy();
      this.#log(`port ${this.#port.name}: a client of ${this.path} was turned away, the port is in use`);
      return;
    }
    this.#serve(client);
  }

  #serve(client: Socket): void {
    const stream = this.#port.open();
    this.#client = client;
    this.#stream = stream;
    let probe: NodeJS.Timeout | undefined;
    stream.on('error', () => undefined);
    client.once('end', () => {
      // Nothing is read any more, so only a write shows when it has closed its other half too.
      probe = setInterval(() => client.write(''), PROBE_INTERVAL_MS);
      probe.unref();
    });
    client.once('close', () => {
      clearInterval(probe);
      stream.unpipe(client);
      stream.resume();
      if (client.readableEnded && !stream.writableFinished) {
        // It has said all it wanted to: the guest still gets that.
        stream.once('finish', () => stream.destroy());
      } else stream.destroy();
    });
    stream.once('close', () => {
      if (this.#stream !== stream) return;
      this.#client = this.#stream = undefined;
      client.destroy();
    });
    client.pipe(stream);
    stream.pipe(client);
  }

  #drop(): void {
    this.#client?.destroy();
    this.#stream?.destroy();
  }

  /** Whether a client has closed its connection, which a write without bytes finds out. */
  #isGone(client: Socket): Promise<boolean> {
    if (client.destroyed) return Promise.resolve(true);
    return new Promise((resolve) => {
      const limit = setTimeout(() => resolve(false), PROBE_LIMIT_MS);
      client.write('', (error) => {
        clearTimeout(limit);
        resolve(error !== undefined && error !== null);
      });
    });
  }

  #describe(error: unknown): PortSocketError {
    // libuv says EACCES for a directory that is not there.
    const isMissing = codeOf(error) === 'EACCES' && !existsSync(dirname(this.path));
    const code = isMissing ? 'ENOENT' : (codeOf(error) ?? 'EIO');
    const reasons: Readonly<Record<string, string>> = {
      EACCES: 'no permission to make a socket there',
      ENOENT: 'its directory does not exist',
      ENOTDIR: 'what should be its directory is a file',
      EROFS: 'its file system is read-only',
      EADDRINUSE: 'another process listens on it',
    };
    const message = error instanceof Error ? error.message : String(error);
    return this.#error(code, reasons[code] ?? message);
  }

  #error(code: string, reason: string): PortSocketError {
    return new PortSocketError(
      this.path,
      code,
      `cannot make the socket '${this.path}' of port ${this.#port.name}: ${reason}`,
    );
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
