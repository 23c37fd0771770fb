/** A VM that is to end with the process that has started it, however that ends. */
import { Socket } from 'node:net';

/** What is open on this descriptor is closed where the other process ends. */
export const TIE_FD = 4;
/** The VM may take so long to end in order, in milliseconds. */
const END_LIMIT = 10_000;

export class Tie {
  /** resolves when the other process has ended */
  readonly lost: Promise<void>;

  constructor() {
    const socket = new Socket({ fd: TIE_FD, readable: true, writable: false });
    this.lost = new Promise((resolve) => {
      socket.once('close', () => {
        // Nobody is there any more who would see to it.
        setTimeout(() => process.exit(1), END_LIMIT).unref();
        resolve();
      });
    });
    socket.on('error', () => undefined);
    socket.resume();
    socket.unref();
  }
}
