/** Host input on its way to a UART, in order, and who waits for it to be taken. */

type Chunk = { readonly bytes: Uint8Array; taken: number; resolve(): void; reject(reason: Error): void };

export class InputQueue {
  readonly #limit: number;
  readonly #chunks: Chunk[] = [];
  #length = 0;

  /** @param limit most bytes held */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Bytes waiting. */
  get length(): number {
    return this.#length;
  }

  /** Bytes that {@link push} would take now. */
  get room(): number {
    return this.#limit - this.#length;
  }

  /** Queues a copy; resolves once all of it has been taken. Rejects with a RangeError where there is no room. */
  push(bytes: Uint8Array): Promise<void> {
    if (bytes.length > this.room)
      return Promise.reject(
        new RangeError(`serial input of ${bytes.length} bytes where ${this.room} of ${this.#limit} are free`),
      );
    if (bytes.length === 0) return Promise.resolve();
    const promise = new Promise<void>((resolve, reject) => {
      this.#chunks.push({ bytes: bytes.slice(), taken: 0, resolve, reject });
    });
    this.#length += bytes.length;
    return promise;
  }

  /** The next byte. */
  shift(): number | undefined {
    const chunk = this.#chunks[0];
    if (chunk === undefined) return undefined;
    const value = chunk.bytes[chunk.taken++];
    this.#length--;
    if (chunk.taken === chunk.bytes.length) {
      this.#chunks.shift();
      chunk.resolve();
    }
    return value;
  }

  /** Drops what waits and rejects those who wait for it; one who has stopped waiting is not bothered. */
  clear(reason: Error): void {
    this.#length = 0;
    for (const chunk of this.#chunks.splice(0)) chunk.reject(reason);
  }
}
