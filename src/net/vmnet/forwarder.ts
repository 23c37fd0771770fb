/** Asks the host's resolver on behalf of guests that may reach the world anyway. */
import { createSocket, type Socket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { nameServers } from '../passt/host-network.ts';
import { DNS_PORT } from './dns-message.ts';

const TIMEOUT_MS = 5000;
/** Questions that wait for their answer: of one port, and in all. Each has a socket. */
const PORT_LIMIT = 32;
const LIMIT = 128;
const LONGEST_QUERY = 512;

export type ForwarderOptions = {
  /** default: those of /etc/resolv.conf, looked up each time */
  readonly servers?: () => readonly { readonly address: string; readonly port: number }[];
};

/**
 * Each question goes out from a socket of its own, connected to the resolver: its port is chosen by the kernel, and
 * only the resolver's datagrams are heard there.
 */
export class DnsForwarder {
  readonly #servers: NonNullable<ForwarderOptions['servers']>;
  readonly #waiting = new Map<Socket, number>();

  constructor(options: ForwarderOptions = {}) {
    this.#servers = options.servers ?? hostResolvers;
  }

  /** Resolves to the answer, or undefined where none came in time. Returns undefined where there are too many. */
  ask(port: number, query: Buffer): Promise<Buffer | undefined> | undefined {
    const mine = [...this.#waiting.values()].filter((other) => other === port).length;
    if (this.#waiting.size >= LIMIT || mine >= PORT_LIMIT || query.length > LONGEST_QUERY) return undefined;
    const [server] = this.#servers();
    if (server === undefined) return undefined;
    const socket = createSocket(isIP(server.address) === 6 ? 'udp6' : 'udp4');
    this.#waiting.set(socket, port);
    return new Promise((resolve) => {
      const end = (answer?: Buffer): void => {
        if (!this.#waiting.delete(socket)) return;
        clearTimeout(timer);
        socket.close();
        resolve(answer);
      };
      const timer = setTimeout(end, TIMEOUT_MS);
      socket.on('error', () => end());
      socket.on('message', (message) => {
        if (answers(message, query)) end(message);
      });
      socket.connect(server.port, server.address, () => {
        if (this.#waiting.has(socket)) socket.send(query);
      });
    });
  }

  close(): void {
    for (const socket of this.#waiting.keys()) socket.emit('error', new Error('closed'));
  }
}

/** The same number, and the same question. */
function answers(message: Buffer, query: Buffer): boolean {
  if (message.length < 12 || message.readUInt16BE(0) !== query.readUInt16BE(0)) return false;
  return (message[2]! & 0x80) !== 0;
}

function hostResolvers(): { address: string; port: number }[] {
  try {
    return nameServers(readFileSync('/etc/resolv.conf', 'utf8')).map((address) => ({
      address,
      port: DNS_PORT,
    }));
  } catch {
    return [];
  }
}
