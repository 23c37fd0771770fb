/** Bytes in a page, the unit of what can be given back to the host. */
export const PAGE_SIZE = 4096;

/** Ranges of addresses in a flat array that is used again: address and length of each, one after the other. */
export class PageRanges {
  /** two numbers a range, for the first {@link count} of them */
  numbers = new Float64Array(64);
  count = 0;
  /** the sum of the lengths */
  byteLength = 0;

  clear(): void {
    this.count = 0;
    this.byteLength = 0;
  }

  /** Appends a range, or lengthens the last one where it begins at its end. */
  add(address: number, length: number): void {
    if (length <= 0) return;
    this.byteLength += length;
    const last = this.count - 1;
    if (last >= 0 && address === this.address(last) + this.length(last)) {
      this.numbers[2 * last + 1]! += length;
      return;
    }
    const at = 2 * this.count++;
    if (at === this.numbers.length) this.#grow();
    this.numbers[at] = address;
    this.numbers[at + 1] = length;
  }

  /** Address of a range. */
  address(index: number): number {
    return this.numbers[2 * index]!;
  }

  length(index: number): number {
    return this.numbers[2 * index + 1]!;
  }

  #grow(): void {
    const numbers = new Float64Array(2 * this.numbers.length);
    numbers.set(this.numbers);
    this.numbers = numbers;
  }
}
