import type { Segments } from '../../virtio/segments.ts';

type Chunk = { readonly bytes: Uint8Array; taken: number; resolve(): void; reject(reason: Error): void };

/** Host input on its way to a port, in order, and who waits for it to be taken. */
export class InputQueue {
  readonly #limit: number;
  #chunks: Chunk[] = [];
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
    if (bytes.length > this.room) {
      return Promise.reject(
        new RangeError(`input of ${bytes.length} bytes where ${this.room} of ${this.#limit} are free`),
      );
    }
    if (bytes.length === 0) return Promise.resolve();
    this.#length += bytes.length;
    return new Promise((resolve, reject) => {
      this.#chunks.push({ bytes: bytes.slice(), taken: 0, resolve, reject });
    });
  }

  /** Moves as much as there is room for into a guest's buffer; returns the bytes moved. */
  take(target: Segments): number {
    let done = 0;
    let finished = 0;
    for (const chunk of this.#chunks) {
      const moved = target.write(done, chunk.bytes.subarray(chunk.taken));
      done += moved;
      chunk.taken += moved;
      if (chunk.taken < chunk.bytes.length) break;
      finished++;
    }
    this.#length -= done;
    for (const chunk of this.#chunks.splice(0, finished)) chunk.resolve();
    return done;
  }

  /** Drops what waits and rejects those who wait for it. */
  clear(reason: Error): void {
    this.#length = 0;
    for (const chunk of this.#chunks.splice(0)) chunk.reject(reason);
  }
}
