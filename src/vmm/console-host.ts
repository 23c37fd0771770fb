import { GuestInput, type InputTaker } from './guest-input.ts';
import type { SerialPort } from './types.ts';

/** What of the console's past is kept for {@link SerialPort.tail}, in bytes. */
const TAIL_LIMIT = 64 * 1024;

/**
 * The host's end of a console, serial or virtio: outlives the devices of one boot. It takes all that the guest says,
 * whether anybody listens or not, and keeps the last of it.
 */
export class ConsoleHost implements SerialPort {
  readonly #listeners = new Set<(bytes: Uint8Array) => void>();
  readonly #input = new GuestInput('console');
  #past = new Uint8Array(0);
  /** bytes said so far: the next one's place in the ring, once that has its size */
  #said = 0;

  onData(listener: (bytes: Uint8Array) => void): () => void {
    // A wrapper, so that the same listener can be there twice.
    const entry = (bytes: Uint8Array): void => listener(bytes);
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  write(data: Uint8Array | string): Promise<void> {
    return this.#input.send(typeof data === 'string' ? new TextEncoder().encode(data) : data.slice());
  }

  tail(lines?: number): string {
    const at = this.#said % TAIL_LIMIT;
    const decoder = new TextDecoder();
    const past =
      this.#said < TAIL_LIMIT
        ? this.#past.subarray(0, this.#said)
        : Buffer.concat([this.#past.subarray(at), this.#past.subarray(0, at)]);
    const text = decoder.decode(past);
    if (lines === undefined) return text;
    return text
      .replace(/\r?\n$/, '')
      .split('\n')
      .slice(-lines)
      .join('\n');
  }

  /** The guest has sent something. Returns true: it may send more. */
  output(bytes: Uint8Array): boolean {
    this.#keep(bytes);
    for (const listener of this.#listeners) listener(bytes);
    return true;
  }

  /** Connects a machine's console; none while it is being reset. Input waits meanwhile. */
  connect(guest: InputTaker | undefined): void {
    this.#input.connect(guest);
  }

  /** The VM has ended: pending and later input is refused. */
  close(): void {
    this.#input.close();
  }

  #keep(bytes: Uint8Array): void {
    if (this.#past.length === 0) this.#past = new Uint8Array(TAIL_LIMIT);
    const last = bytes.subarray(-TAIL_LIMIT);
    const at = (this.#said + bytes.length - last.length) % TAIL_LIMIT;
    const first = last.subarray(0, TAIL_LIMIT - at);
    this.#past.set(first, at);
    this.#past.set(last.subarray(first.length), 0);
    this.#said += bytes.length;
  }
}
