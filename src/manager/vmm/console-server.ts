import { createServer, type Server, type Socket } from 'node:net';
import { listenOnUnixSocket } from '../../vmm/unix-listener.ts';
import type { SerialPort } from '../../vmm/types.ts';

const MAX_CLIENTS = 32;
/** A client that does not read loses what goes beyond this, in bytes. */
const BACKLOG_LIMIT = 1024 * 1024;
/** What a client may have typed that the guest has not taken, in bytes. */
const INPUT_LIMIT = 64 * 1024;

/**
 * The VM's console on a unix socket, for its owner alone, as raw bytes. Several may be attached at once: each gets
 * what was said last and then all that comes, and what any of them types goes to the guest.
 */
export class ConsoleServer {
  readonly #server: Server;
  readonly #clients = new Set<Socket>();

  /** @param path at most 107 bytes; nobody listens there */
  static async listen(path: string, console: SerialPort): Promise<ConsoleServer> {
    const server = new ConsoleServer(console);
    await listenOnUnixSocket(server.#server, { path, of: 'the console' });
    return server;
  }

  private constructor(console: SerialPort) {
    this.#server = createServer({ allowHalfOpen: true }, (client) => this.#attach(client, console));
    this.#server.maxConnections = MAX_CLIENTS;
  }

  /** Gives clients a moment to take the last output. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const client of this.#clients) client.end();
    const cut = setTimeout(() => {
      for (const client of this.#clients) client.destroy();
    }, 500);
    await closed;
    clearTimeout(cut);
  }

  #attach(client: Socket, console: SerialPort): void {
    this.#clients.add(client);
    client.on('error', () => undefined);
    client.write(console.tail());
    const detach = console.onData((bytes) => {
      if (client.writable && client.writableLength < BACKLOG_LIMIT) client.write(Buffer.from(bytes));
    });
    let waiting = 0;
    client.on('data', (data: Buffer) => {
      waiting += data.length;
      if (waiting > INPUT_LIMIT) client.pause();
      console
        .write(data)
        .catch(() => undefined)
        .finally(() => {
          waiting -= data.length;
          if (waiting <= INPUT_LIMIT) client.resume();
        });
    });
    client.on('close', () => {
      detach();
      this.#clients.delete(client);
    });
  }
}
