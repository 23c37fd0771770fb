import { alignUp } from './format.ts';
import { OffsetSet } from './offset-set.ts';

export type Area = { readonly name: string; offset: number; length: number };

/**
 * Where the image keeps its metadata, so that no write of anything else goes there, whatever a damaged or hostile
 * image says: the header, the active L1 table, the refcount table, the snapshot table and the snapshots' L1 tables as
 * ranges, and the active L2 tables and refcount blocks by cluster.
 */
export class MetadataMap {
  readonly #clusterSize: number;
  readonly l1: Area;
  readonly refcountTable: Area;
  readonly #areas: Area[];
  readonly l2Tables: OffsetSet;
  readonly refcountBlocks: OffsetSet;

  constructor(
    clusterSize: number,
    l1: { offset: number; length: number },
    refcountTable: { offset: number; length: number },
    others: readonly Area[],
    l2Tables: Float64Array,
    refcountBlocks: Float64Array,
  ) {
    this.#clusterSize = clusterSize;
    this.l1 = { name: 'the L1 table', ...l1 };
    this.refcountTable = { name: 'the refcount table', ...refcountTable };
    this.#areas = [
      { name: 'the header', offset: 0, length: clusterSize },
      this.l1,
      this.refcountTable,
      ...others,
    ];
    this.l2Tables = new OffsetSet(l2Tables);
    this.refcountBlocks = new OffsetSet(refcountBlocks);
  }

  /** What of the metadata a write to this range would hit; `except` is what is being written itself. */
  overlap(offset: number, length: number, except?: 'L2' | 'L1' | 'refcounts'): string | undefined {
    const end = offset + length;
    for (const area of this.#areas) {
      if (offset >= area.offset + alignUp(area.length, this.#clusterSize) || end <= area.offset) continue;
      if (except === 'L1' && area === this.l1) continue;
      return area.name;
    }
    const size = this.#clusterSize;
    for (let cluster = offset - (offset % size); cluster < end; cluster += size) {
      if (except !== 'L2' && this.l2Tables.has(cluster)) return 'an L2 table';
      if (except !== 'refcounts' && this.refcountBlocks.has(cluster)) return 'a refcount block';
    }
    return undefined;
  }
}
