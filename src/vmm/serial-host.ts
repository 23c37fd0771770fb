import type { SerialPort } from './types.ts';

/** What of the console's past is kept for {@link SerialPort.tail}, in bytes. */
const TAIL_LIMIT = 64 * 1024;
/** Input goes to the device in pieces of this many bytes. */
const INPUT_PIECE = 4096;

/** The device's side of the port. It changes when the machine is reset. */
export type SerialInput = { input(bytes: Uint8Array): Promise<void> };

/** The host's side of the serial console: outlives the devices of one boot. */
export class SerialHost implements SerialPort {
  readonly #listeners = new Set<(bytes: Uint8Array) => void>();
  readonly #past: Uint8Array[] = [];
  #pastLength = 0;
  #device: SerialInput | undefined;
  #waiting: (() => void)[] = [];
  #queue: Promise<void> = Promise.resolve();
  #closed = false;

  onData(listener: (bytes: Uint8Array) => void): () => void {
    // A wrapper, so that the same listener can be there twice.
    const entry = (bytes: Uint8Array): void => listener(bytes);
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  write(data: Uint8Array | string): Promise<void> {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data.slice();
    const done = this.#queue.then(() => this.#send(bytes));
    this.#queue = done.catch(() => undefined);
    return done;
  }

  tail(lines?: number): string {
    const text = new TextDecoder().decode(Buffer.concat(this.#past));
    if (lines === undefined) return text;
    return text
      .replace(/\r?\n$/, '')
      .split('\n')
      .slice(-lines)
      .join('\n');
  }

  /** The guest has sent something. */
  output(bytes: Uint8Array): void {
    this.#past.push(bytes);
    this.#pastLength += bytes.length;
    while (this.#pastLength > TAIL_LIMIT) {
      const first = this.#past[0]!;
      const excess = this.#pastLength - TAIL_LIMIT;
      if (first.length <= excess) this.#past.shift();
      else this.#past[0] = first.subarray(excess);
      this.#pastLength -= Math.min(first.length, excess);
    }
    for (const listener of this.#listeners) listener(bytes);
  }

  /** Connects a machine's port; none while it is being reset. Input waits meanwhile. */
  connect(device: SerialInput | undefined): void {
    this.#device = device;
    if (device === undefined) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const proceed of waiting) proceed();
  }

  /** The VM has ended: pending and later input is refused. */
  close(): void {
    this.#closed = true;
    this.#device = undefined;
    for (const proceed of this.#waiting) proceed();
    this.#waiting = [];
  }

  async #send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      if (this.#closed) throw new Error('the VM has ended, its serial port takes no input');
      const device = this.#device;
      if (device === undefined) {
        await new Promise<void>((resolve) => this.#waiting.push(resolve));
        continue;
      }
      const piece = bytes.subarray(at, at + INPUT_PIECE);
      try {
        await device.input(piece);
        at += piece.length;
      } catch (error) {
        // The port went away with its machine: what the guest had not taken is lost with it, as on a reset PC.
        if (this.#device === device) throw error;
        at += piece.length;
      }
    }
  }
}
