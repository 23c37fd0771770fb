import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestSockets, GuestStream, HostStream, VsockBackend } from '../devices/vsock/backend.ts';
import { SocketStream } from './socket-stream.ts';
import { listenOnUnixSocket } from './unix-listener.ts';

/** Most connections at a time, those that a guest of before a reset has left among them. */
const STREAM_LIMIT = 1100;
/** `_4294967295` */
const PORT_SUFFIX = 11;
/** Longer than any `CONNECT PORT` is. */
const COMMAND_LIMIT = 32;
const COMMAND = /^CONNECT +(\d{1,10})$/i;
const LAST_PORT = 0xffff_ffff;
const LF = 0x0a;
/** A person may type the command. */
const COMMAND_TIME_MS = 60_000;
/** How often connections are looked after whose host's program sends no more. */
const PROBE_INTERVAL_MS = 250;
/** What programs get to take the last data, once the VM has ended. */
const CLOSING_LIMIT_MS = 1000;

/**
 * The host's side of the socket device, by Firecracker's convention. A program of the host connects to the unix socket
 * PATH, says `CONNECT PORT` in a line and gets `OK HOSTPORT` in a line, or the end where nobody in the guest listens.
 * A guest that connects to a port of the host reaches the program that listens on PATH_PORT. It outlives the devices
 * of one boot. The sockets at PATH_PORT are others': whoever can make one there can be reached by the guest.
 */
export class VsockHost implements VsockBackend {
  readonly #path: string;
  readonly #server: Server;
  readonly #streams = new Set<SocketStream>();
  /** clients that have not said where to */
  readonly #clients = new Set<Socket>();
  #guest: GuestSockets | undefined;
  #probe: NodeJS.Timeout | undefined;
  #idle: (() => void) | undefined;

  /** @throws PortSocketError, with the reason for a person */
  static async listen(path: string): Promise<VsockHost> {
    const host = new VsockHost(path);
    await listenOnUnixSocket(host.#server, { path, of: 'the vsock', suffix: PORT_SUFFIX });
    return host;
  }

  private constructor(path: string) {
    this.#path = path;
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.#accept(socket),
    );
    this.#server.maxConnections = STREAM_LIMIT;
  }

  attach(guest: GuestSockets | undefined): void {
    this.#guest = guest;
  }

  connect(hostPort: number, guest: GuestStream): HostStream | undefined {
    if (this.#streams.size >= STREAM_LIMIT) return undefined;
    const socket = connect({ path: `${this.#path}_${hostPort}`, allowHalfOpen: true });
    socket.pause();
    const stream = this.#stream(socket);
    stream.attach(guest);
    socket.once('connect', () => guest.connected());
    return stream;
  }

  /** Lets programs have the last data, for up to a second, and removes the socket. The devices are gone already. */
  async close(): Promise<void> {
    this.#guest = undefined;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const client of this.#clients) client.destroy();
    if (this.#streams.size > 0) {
      const idle = new Promise<void>((resolve) => (this.#idle = resolve));
      const limit = new AbortController();
      const { signal } = limit;
      await Promise.race([idle, sleep(CLOSING_LIMIT_MS, undefined, { signal }).catch(() => undefined)]);
      limit.abort();
      for (const stream of this.#streams) stream.destroy();
    }
    await closed;
  }

  #stream(socket: Socket): SocketStream {
    const stream = new SocketStream(socket, () => {
      this.#streams.delete(stream);
      if (this.#streams.size > 0) return;
      clearInterval(this.#probe);
      this.#probe = undefined;
      this.#idle?.();
    });
    this.#streams.add(stream);
    // Where nothing is read any more, only a write shows that the other half is closed too.
    this.#probe ??= setInterval(() => {
      for (const each of this.#streams) if (each.hasEnded) each.probe();
    }, PROBE_INTERVAL_MS).unref();
    return stream;
  }

  /** A client that says where it wants to. */
  #accept(socket: Socket): void {
    let heard = Buffer.alloc(0);
    const limit = setTimeout(() => socket.destroy(), COMMAND_TIME_MS).unref();
    const leave = (): void => {
      clearTimeout(limit);
      this.#clients.delete(socket);
    };
    const onData = (bytes: Buffer): void => {
      heard = Buffer.concat([heard, bytes]);
      const end = heard.indexOf(LF);
      if (end < 0 && heard.length < COMMAND_LIMIT) return;
      leave();
      socket.off('data', onData).off('close', leave).off('end', onEnd);
      socket.pause();
      const port = portOf(heard.subarray(0, Math.max(end, 0)).toString('latin1').trimEnd());
      if (port === undefined || !this.#open(socket, port, heard.subarray(end + 1))) socket.destroy();
    };
    const onEnd = (): void => void socket.destroy();
    this.#clients.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', onData).on('close', leave).on('end', onEnd);
    socket.resume();
  }

  /** Connects a client to the guest; false where that cannot be. */
  #open(socket: Socket, guestPort: number, early: Uint8Array): boolean {
    if (this.#guest === undefined || this.#streams.size >= STREAM_LIMIT) return false;
    const stream = this.#stream(socket);
    const guest = this.#guest.open(guestPort, stream);
    if (guest === undefined) return false;
    stream.attach(guest, early);
    return true;
  }
}

function portOf(command: string): number | undefined {
  const port = Number(COMMAND.exec(command)?.[1] ?? NaN);
  return port <= LAST_PORT ? port : undefined;
}
