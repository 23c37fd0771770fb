import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { listenOnUnixSocket } from '../../vmm/unix-listener.ts';
import { STREAM_PATH, STREAM_PROTOCOL } from './frames.ts';
import { answer } from './http.ts';
import { ROUTES, type ControlledVm } from './routes.ts';

/** Longest wait for the rest of a request, in milliseconds. */
const REQUEST_LIMIT = 30_000;
const MAX_CLIENTS = 128;

/** The control API of one VM on a unix socket, for its owner alone. */
export class ControlServer {
  readonly #server: Server;
  /** also those that are no longer HTTP, of which the server knows only that they are there */
  readonly #clients = new Set<Socket>();

  /** @param path at most 107 bytes; nobody listens there */
  static async listen(path: string, vm: ControlledVm): Promise<ControlServer> {
    const server = createServer({ requestTimeout: REQUEST_LIMIT }, (message, response) => {
      void answer(ROUTES, vm, message, response);
    });
    server.on('upgrade', (message, socket, head) => {
      // Nobody else hears of its end from here on.
      socket.on('error', () => undefined);
      if (message.url !== STREAM_PATH || message.headers.upgrade !== STREAM_PROTOCOL) {
        // Nobody reads it any more, so its client's end would not be seen.
        socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n', () => socket.destroy());
        return;
      }
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ${STREAM_PROTOCOL}\r\n\r\n`,
      );
      vm.stream(socket, head);
    });
    server.maxConnections = MAX_CLIENTS;
    server.on('clientError', (_, socket) => {
      if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n');
      else socket.destroy();
    });
    await listenOnUnixSocket(server, { path, of: 'the control API' });
    return new ControlServer(server);
  }

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (client) => {
      this.#clients.add(client);
      client.once('close', () => this.#clients.delete(client));
    });
  }

  /** Lets the requests that are under way end, for a moment, and removes the socket. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    const cut = setTimeout(() => {
      for (const client of this.#clients) client.destroy();
    }, 500);
    await closed;
    clearTimeout(cut);
  }
}
