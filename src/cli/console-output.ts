import type { Writable } from 'node:stream';

/** Bytes kept for a reader of standard output that does not read. */
export const OUTPUT_LIMIT = 1024 * 1024;

export type ConsoleOutputEvents = {
  /** output was dropped because the reader stalls; told once */
  onDrop(): void;
  /** nothing can be written any more, such as EPIPE; told once */
  onError(error: Error): void;
};

/** The guest's console output on its way to a stream whose reader may be slow, stalled or gone. */
export class ConsoleOutput {
  readonly #stream: Writable;
  readonly #events: ConsoleOutputEvents;
  readonly #limit: number;
  readonly #onError = (error: Error): void => this.#fail(error);
  #failed = false;
  #dropped = 0;
  #lastByte = 0x0a;
  #idle: (() => void)[] = [];
  #outstanding = 0;

  constructor(stream: Writable, events: ConsoleOutputEvents, limit = OUTPUT_LIMIT) {
    this.#stream = stream;
    this.#events = events;
    this.#limit = limit;
    stream.on('error', this.#onError);
  }

  /** Bytes dropped so far. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Whether the last output ended its line. */
  get atLineStart(): boolean {
    return this.#lastByte === 0x0a;
  }

  /** Writes `bytes`, which are the stream's from now on, or drops them where the reader is too far behind. */
  write(bytes: Uint8Array): void {
    const last = bytes.at(-1);
    if (this.#failed || last === undefined) return;
    if (this.#outstanding > 0 && this.#outstanding + bytes.length > this.#limit) {
      const first = this.#dropped === 0;
      this.#dropped += bytes.length;
      if (first) this.#events.onDrop();
      return;
    }
    this.#lastByte = last;
    this.#outstanding += bytes.length;
    this.#stream.write(bytes, () => {
      this.#outstanding -= bytes.length;
      if (this.#outstanding === 0) this.#wake();
    });
  }

  /** Resolves when the reader has taken everything, or can take no more. */
  flushed(): Promise<void> {
    if (this.#failed || this.#outstanding === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  #wake(): void {
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #fail(error: Error): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#wake();
    this.#events.onError(error);
  }
}
