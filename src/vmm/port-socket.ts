import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HostPort } from './host-port.ts';
import { listenOnUnixSocket } from './unix-listener.ts';

/** How often a client that sends no more is looked after. */
const PROBE_INTERVAL_MS = 250;
/** A client is taken to be there unless a look at it fails within this time. */
const PROBE_LIMIT_MS = 50;
/** What clients get to take the last output, once the VM has ended. */
const CLOSING_LIMIT_MS = 1000;

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
    await listenOnUnixSocket(socket.#server, { path, of: `port ${port.name}` });
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
}
