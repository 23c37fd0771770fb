import type { Segments } from '../../virtio/segments.ts';

/** Pieces of this size are what a queue grows by at least, so that many small packets cost no more than few large. */
const PIECE = 4096;
/** Largest piece that is handed out. */
const LARGEST_PIECE = 64 * 1024;

type Piece = { readonly bytes: Uint8Array; filled: number };

/** What the guest has sent and the host has not taken yet, in order. Takes up little more than the bytes in it. */
export class ByteQueue {
  #pieces: Piece[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Appends `length` bytes of a chain from `offset` on. */
  push(source: Segments, offset: number, length: number): void {
    let done = 0;
    while (done < length) {
      let last = this.#pieces.at(-1);
      if (last === undefined || last.filled === last.bytes.length) {
        const size = Math.min(LARGEST_PIECE, Math.max(PIECE, length - done));
        last = { bytes: new Uint8Array(size), filled: 0 };
        this.#pieces.push(last);
      }
      const size = Math.min(last.bytes.length - last.filled, length - done);
      source.read(offset + done, last.bytes.subarray(last.filled, last.filled + size));
      last.filled += size;
      done += size;
    }
    this.#length += length;
  }

  /** Takes the first bytes out, up to 64 KiB; undefined where there are none. They are the caller's to keep. */
  shift(): Uint8Array | undefined {
    const first = this.#pieces.shift();
    if (first === undefined) return undefined;
    this.#length -= first.filled;
    return first.bytes.subarray(0, first.filled);
  }

  clear(): void {
    this.#pieces = [];
    this.#length = 0;
  }
}
