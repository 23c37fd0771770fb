/**
 * The pieces of memory that one I/O request goes to or comes from, in their order. Flat arrays that are used again,
 * so a request costs no allocation.
 */
export class IoVector {
  /** buffers of the first {@link count} pieces, as `IoRing.register` numbered them */
  buffers = new Int32Array(4);
  /** where in its buffer each piece begins, in bytes */
  offsets = new Float64Array(4);
  /** lengths in bytes, none of them 0 */
  lengths = new Uint32Array(4);
  count = 0;
  /** the sum of the lengths */
  byteLength = 0;

  clear(): void {
    this.count = 0;
    this.byteLength = 0;
  }

  /** Appends a piece; the ring checks it against its buffer. */
  add(buffer: number, offset: number, length: number): void {
    if (length === 0) return;
    const at = this.count;
    if (at === this.buffers.length) this.#grow();
    this.buffers[at] = buffer;
    this.offsets[at] = offset;
    this.lengths[at] = length;
    this.count = at + 1;
    this.byteLength += length;
  }

  /** Appends the pieces of a range of `source`; returns the bytes covered. */
  addSlice(source: IoVector, offset: number, length: number): number {
    let left = length;
    let skip = offset;
    for (let i = 0; i < source.count && left > 0; i++) {
      const here = source.lengths[i]!;
      if (skip >= here) {
        skip -= here;
        continue;
      }
      const size = Math.min(here - skip, left);
      this.add(source.buffers[i]!, source.offsets[i]! + skip, size);
      left -= size;
      skip = 0;
    }
    return length - left;
  }

  #grow(): void {
    const size = 2 * this.buffers.length;
    const buffers = new Int32Array(size);
    const offsets = new Float64Array(size);
    const lengths = new Uint32Array(size);
    buffers.set(this.buffers);
    offsets.set(this.offsets);
    lengths.set(this.lengths);
    this.buffers = buffers;
    this.offsets = offsets;
    this.lengths = lengths;
  }
}
