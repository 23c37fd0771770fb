import type { GuestBuffers } from '../kvm/guest-buffers.ts';
import type { IoVector } from '../kvm/io-vector.ts';
import type { Segments } from '../virtio/segments.ts';

/** Appends a range of a chain's part to a vector. */
export function gather(
  vector: IoVector,
  buffers: GuestBuffers,
  segments: Segments,
  offset: number,
  length: number,
): void {
  const { addresses, lengths, count } = segments;
  let skip = offset;
  let left = length;
  for (let i = 0; i < count && left > 0; i++) {
    const here = lengths[i]!;
    if (skip >= here) {
      skip -= here;
      continue;
    }
    const size = Math.min(here - skip, left);
    buffers.append(vector, addresses[i]! + skip, size);
    left -= size;
    skip = 0;
  }
}
