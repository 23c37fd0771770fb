import { openSync, rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { cacheRoot } from '../../images/debian/cache.ts';
import { LabError, type OpenCommand } from './commands.ts';
import { Lab, type LabOptions } from './lab.ts';
import {
  encodeFrame,
  FRAME,
  FrameDecoder,
  type Frame,
  type FrameType,
  type ReadyReport,
} from './protocol.ts';

/** Of a Unix socket's path, in bytes (unix(7), sun_path). */
const MAX_SOCKET_PATH = 107;

/** Where the level 1 listens that `npm run lab -- --keep` leaves running. */
export function keptSocket(): string {
  return join(cacheRoot(), 'lab', 'kept.sock');
}

/** Address of a Unix socket, however long its path. */
export function socketAddress(path: string): string {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH) return path;
  return `/proc/self/fd/${openSync(dirname(path), 'r')}/${basename(path)}`;
}

/** Shares one level 1 among processes, over a Unix socket. It is started when the first client comes. */
export class LabServer {
  /** Resolves when a client asks to stop level 1. */
  readonly stopRequested: Promise<void>;
  readonly #path: string;
  readonly #options: LabOptions;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  #lab: Promise<Lab> | undefined;
  #requestStop!: () => void;

  /**
   * @param path of the socket; one that nobody listens on is replaced
   * @throws Error with code EADDRINUSE where somebody does
   */
  static async listen(path: string, options: LabOptions = {}): Promise<LabServer> {
    await mkdir(dirname(path), { recursive: true });
    if (!(await isListening(path))) rmSync(path, { force: true });
    const server = new LabServer(path, options);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(socketAddress(path), resolve);
    });
    return server;
  }

  private constructor(path: string, options: LabOptions) {
    this.#path = path;
    this.#options = options;
    this.stopRequested = new Promise((resolve) => (this.#requestStop = resolve));
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Level 1; starts it where it is not up. */
  async lab(): Promise<Lab> {
    this.#lab ??= this.#start();
    return this.#lab;
  }

  async close(): Promise<void> {
    this.#server.close();
    for (const socket of this.#clients) socket.destroy();
    rmSync(this.#path, { force: true });
    const lab = await this.#lab?.catch(() => undefined);
    await lab?.stop();
  }

  async #start(): Promise<Lab> {
    try {
      const lab = await Lab.start(this.#options);
      // One that died is replaced for the next client.
      void lab.ended.then(() => (this.#lab = undefined));
      return lab;
    } catch (error) {
      this.#lab = undefined;
      throw error;
    }
  }

  #accept(socket: Socket): void {
    this.#clients.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => this.#clients.delete(socket));
    void this.#serve(socket).catch((error: unknown) => {
      socket.end(encodeFrame(FRAME.failed, 0, error instanceof Error ? error.message : String(error)));
    });
  }

  async #serve(socket: Socket): Promise<void> {
    const wasUp = this.#lab !== undefined;
    const lab = await this.lab();
    // Level 1 caches what it read of the host's tree. A client is to see the tree as it is when it comes.
    if (wasUp) await lab.exec('echo 3 > /proc/sys/vm/drop_caches');
    relay(socket, lab, this.#requestStop);
    const report: ReadyReport = { shared: lab.shared };
    socket.write(encodeFrame(FRAME.ready, 0, JSON.stringify(report)));
  }
}

export function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createConnection(socketAddress(path));
    probe.once('error', () => resolve(false));
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
  });
}

/** Passes frames between a client and level 1, each command under a number of level 1's own. */
function relay(socket: Socket, lab: Lab, requestStop: () => void): void {
  const commands = new Map<number, OpenCommand>();
  const send = (type: FrameType, id: number, payload: Uint8Array | string) => {
    if (!socket.destroyed) socket.write(encodeFrame(type, id, payload));
  };

  const start = (id: number, payload: Buffer): void => {
    const command = lab.channel.open({
      frame: (type, data) => {
        send(type as FrameType, id, data);
        if (type !== FRAME.exit && type !== FRAME.failed) return;
        command.close();
        commands.delete(id);
      },
      lost: (error) => send(FRAME.failed, 0, error.message),
    });
    commands.set(id, command);
    command.send(FRAME.start, payload);
  };

  const handle = ({ type, command: id, payload }: Frame): void => {
    if (type === FRAME.start) start(id, payload);
    else if (type === FRAME.stop) requestStop();
    else if (type === FRAME.console) send(FRAME.console, 0, lab.consoleTail());
    else commands.get(id)?.send(type as FrameType, payload);
  };

  const decoder = new FrameDecoder();
  socket.on('data', (bytes: Buffer) => {
    try {
      for (const frame of decoder.push(bytes)) handle(frame);
    } catch {
      socket.destroy();
    }
  });
  socket.once('close', () => {
    for (const command of commands.values()) {
      command.send(FRAME.kill);
      command.close();
    }
  });
  void lab.ended.then(() => {
    const { lost } = lab.channel;
    send(FRAME.failed, 0, (lost ?? new LabError('level 1 ended')).message);
    socket.end();
  });
}
