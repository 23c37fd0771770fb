/** Offsets of tables: sorted ones that were there from the start, and what came and went since. Compact and bounded. */
export class OffsetSet {
  readonly #base: Float64Array;
  readonly #added = new Set<number>();
  readonly #removed = new Set<number>();
  /** whether an offset was there twice at the start */
  readonly hasDuplicates: boolean;

  /** @param offsets in any order; zeros do not count */
  constructor(offsets: Float64Array) {
    this.#base = offsets.filter((offset) => offset !== 0).sort();
    this.hasDuplicates = this.#base.some((offset, i) => i > 0 && offset === this.#base[i - 1]);
  }

  has(offset: number): boolean {
    if (this.#added.has(offset)) return true;
    if (this.#removed.size > 0 && this.#removed.has(offset)) return false;
    return this.#inBase(offset);
  }

  add(offset: number): void {
    this.#removed.delete(offset);
    if (!this.#inBase(offset)) this.#added.add(offset);
  }

  delete(offset: number): void {
    if (!this.#added.delete(offset) && this.#inBase(offset)) this.#removed.add(offset);
  }

  #inBase(offset: number): boolean {
    const base = this.#base;
    let low = 0;
    let high = base.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (base[middle]! < offset) low = middle + 1;
      else high = middle;
    }
    return base[low] === offset;
  }
}
