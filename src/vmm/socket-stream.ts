import type { Socket } from 'node:net';
import type { GuestStream, HostStream } from '../devices/vsock/backend.ts';

/** A unix socket of the host as one end of a connection with the guest: it holds one piece each way. */
export class SocketStream implements HostStream {
  readonly #socket: Socket;
  #guest: GuestStream | undefined;
  /** what was read before the guest was there */
  #early: Uint8Array | undefined;
  #finishing = false;
  #hasEnded = false;

  /**
   * @param socket that keeps its other half open when one ends, paused
   * @param closed called when it is closed, whatever of it the guest knows
   */
  constructor(socket: Socket, closed: () => void) {
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.on('data', (bytes) => {
      if (this.#finishing) return;
      socket.pause();
      this.#guest?.data(bytes);
    });
    socket.on('end', () => {
      this.#hasEnded = true;
      this.#guest?.ended();
    });
    socket.on('close', () => {
      closed();
      this.#guest?.closed(!this.#hasEnded);
      this.#guest = undefined;
    });
  }

  /** The host's program has sent all that it will, and may have closed its end without our notice. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Finds out whether the host's program has closed its end: a write tells, even one without bytes. */
  probe(): void {
    const { writableEnded, writableLength } = this.#socket;
    if (!writableEnded && writableLength === 0) this.#socket.write('');
  }

  /**
   * Gives it the guest's end.
   * @param early bytes of the host's program that come before those in the socket
   */
  attach(guest: GuestStream, early?: Uint8Array): void {
    this.#guest = guest;
    if (early !== undefined && early.length > 0) this.#early = early;
  }

  /** As Firecracker tells it. */
  accepted(hostPort: number): void {
    this.#socket.write(`OK ${hostPort}\n`);
  }

  write(bytes: Uint8Array): void {
    this.#socket.write(bytes, (error) => {
      if (error === undefined || error === null) this.#guest?.written();
    });
  }

  end(): void {
    this.#socket.end();
  }

  more(): void {
    const early = this.#early;
    if (early === undefined) this.#socket.resume();
    else {
      this.#early = undefined;
      this.#guest?.data(early);
    }
  }

  close(): void {
    this.#guest = undefined;
    this.#finishing = true;
    // What the host's program still sends goes nowhere, and must not keep it from reading.
    this.#socket.resume();
    this.#socket.end(() => this.#socket.destroy());
  }

  destroy(): void {
    this.#guest = undefined;
    this.#socket.destroy();
  }
}
