import type { IoVector } from '../../kvm/io-vector.ts';
import type { HostFile } from './host-file.ts';

/** Fills a range of the vector's memory with zeros. */
export function zeroVector(file: HostFile, vector: IoVector, offset: number, length: number): void {
  forPieces(file, vector, offset, length, (piece) => piece.fill(0));
}

/** Copies bytes into the vector's memory, from `offset` on. */
export function copyToVector(file: HostFile, vector: IoVector, offset: number, bytes: Uint8Array): void {
  forPieces(file, vector, offset, bytes.length, (piece, at) =>
    piece.set(bytes.subarray(at, at + piece.length)),
  );
}

function forPieces(
  file: HostFile,
  vector: IoVector,
  offset: number,
  length: number,
  use: (piece: Uint8Array, at: number) => void,
): void {
  let skip = offset;
  let done = 0;
  for (let i = 0; i < vector.count && done < length; i++) {
    const here = vector.lengths[i]!;
    if (skip >= here) {
      skip -= here;
      continue;
    }
    const size = Math.min(here - skip, length - done);
    const start = vector.offsets[i]! + skip;
    // Memory that is gone gives a shorter piece.
    const piece = file.bytes(vector.buffers[i]!).subarray(start, start + size);
    use(piece, done);
    done += size;
    skip = 0;
  }
}
