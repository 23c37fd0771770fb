import type { Connection } from './connection.ts';

/** Ports that the host's connections go out from, as Firecracker counts them. */
const FIRST_HOST_PORT = 0x4000_0000;
const LAST_HOST_PORT = 0x7fff_ffff;

/** The connections of a guest, by both their ports. */
export class Connections {
  readonly #byHostPort = new Map<number, Map<number, Connection>>();
  #count = 0;
  #nextPort = FIRST_HOST_PORT;

  get count(): number {
    return this.#count;
  }

  find(hostPort: number, guestPort: number): Connection | undefined {
    return this.#byHostPort.get(hostPort)?.get(guestPort);
  }

  add(connection: Connection): void {
    const { hostPort, guestPort } = connection;
    let ofPort = this.#byHostPort.get(hostPort);
    if (ofPort === undefined) {
      ofPort = new Map();
      this.#byHostPort.set(hostPort, ofPort);
    }
    ofPort.set(guestPort, connection);
    this.#count++;
  }

  remove({ hostPort, guestPort }: Connection): void {
    const ofPort = this.#byHostPort.get(hostPort);
    if (ofPort?.delete(guestPort) !== true) return;
    this.#count--;
    if (ofPort.size === 0) this.#byHostPort.delete(hostPort);
  }

  /** A port of the host that no connection has. There are far more of them than there may be connections. */
  freePort(): number {
    for (;;) {
      const port = this.#nextPort;
      this.#nextPort = port === LAST_HOST_PORT ? FIRST_HOST_PORT : port + 1;
      if (!this.#byHostPort.has(port)) return port;
    }
  }

  clear(): void {
    this.#byHostPort.clear();
    this.#count = 0;
  }

  *[Symbol.iterator](): Generator<Connection> {
    for (const ofPort of this.#byHostPort.values()) yield* ofPort.values();
  }
}
