const CHUNK = 4096;

/** A count for each host cluster; memory goes with the clusters that have one. */
export class SparseCounts {
  readonly #chunks = new Map<number, Uint32Array>();
  /** first cluster behind all that have a count */
  end = 0;

  add(cluster: number, times: number): void {
    const index = Math.floor(cluster / CHUNK);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint32Array(CHUNK);
      this.#chunks.set(index, chunk);
    }
    chunk[cluster % CHUNK] = Math.min(0xffff_ffff, chunk[cluster % CHUNK]! + times);
    if (cluster >= this.end) this.end = cluster + 1;
  }

  get(cluster: number): number {
    return this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0;
  }

  /** One reference less. */
  takeOne(cluster: number): void {
    const chunk = this.#chunks.get(Math.floor(cluster / CHUNK));
    if (chunk !== undefined && chunk[cluster % CHUNK]! > 0) chunk[cluster % CHUNK]!--;
  }

  /** All clusters with a count. */
  *clusters(): Generator<number> {
    for (const [index, chunk] of this.#chunks) {
      for (let i = 0; i < CHUNK; i++) if (chunk[i] !== 0) yield index * CHUNK + i;
    }
  }
}
