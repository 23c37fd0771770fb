import type { IoRing } from '../kvm/io-ring.ts';
import type { IoVector } from '../kvm/io-vector.ts';

const SIZE = 64 * 1024;
const PIECES = 64;

/** Zeros to write: one small buffer, named many times in a vector. */
export class Zeros {
  readonly #ring: IoRing;
  #buffer: number | undefined;

  constructor(ring: IoRing) {
    this.#ring = ring;
  }

  /** Sets `vector` to at most `length` zeros, 4 MiB in one go; returns how many they are. */
  fill(vector: IoVector, length: number): number {
    this.#buffer ??= this.#ring.register(new Uint8Array(SIZE));
    vector.clear();
    for (let left = length; left > 0 && vector.count < PIECES; left -= SIZE) {
      vector.add(this.#buffer, 0, Math.min(left, SIZE));
    }
    return vector.byteLength;
  }

  release(): void {
    if (this.#buffer !== undefined) this.#ring.unregister(this.#buffer);
    this.#buffer = undefined;
  }
}
