/** Runs a random sequence until the power is cut, and checks what is left. */
import { Random } from '../../fuzz/random.ts';
import {
  BACKING_TAG,
  backingBytes,
  newImage,
  openCase,
  randomGeometry,
  randomOperation,
  randomSize,
  SECTOR,
  submit,
  tagOf,
  type Operation,
} from './image-case.ts';

/** What a sector may hold: what was flushed, and everything that was asked for since, done or not. */
class SectorModel {
  readonly #stable: Int32Array;
  /** requests that were not flushed yet, in the order of their completion; those in flight last */
  readonly #since: { operation: Operation; completedAt: number }[] = [];
  #clock = 0;

  constructor(stable: Int32Array) {
    this.#stable = stable;
  }

  begin(operation: Operation): { operation: Operation; completedAt: number } {
    const entry = { operation, completedAt: Infinity };
    this.#since.push(entry);
    return entry;
  }

  complete(entry: { completedAt: number }): void {
    entry.completedAt = ++this.#clock;
  }

  get clock(): number {
    return this.#clock;
  }

  /** A flush that was asked for at this time is complete. */
  flushed(at: number): void {
    const done = this.#since.filter(({ completedAt }) => completedAt <= at);
    done.sort((a, b) => a.completedAt - b.completedAt);
    for (const entry of done) this.#since.splice(this.#since.indexOf(entry), 1);
    for (const { operation } of done) {
      if (operation.kind === 'flush') continue;
      const { sector, count } = operation;
      for (let i = sector; i < sector + count; i++) {
        // A discard may leave what was there: what is allowed is a set then, kept as a negative tag.
        if (operation.kind === 'write') this.#stable[i] = operation.tag;
        else if (operation.kind === 'zero') this.#stable[i] = 0;
        else if (this.#stable[i]! > 0) this.#stable[i] = -this.#stable[i]!;
      }
    }
  }

  allows(sector: number, tag: number): boolean {
    const stable = this.#stable[sector]!;
    if (tag === Math.abs(stable) || (stable < 0 && tag === 0)) return true;
    return this.#since.some(({ operation }) => {
      if (operation.kind === 'flush') return false;
      if (sector < operation.sector || sector >= operation.sector + operation.count) return false;
      return operation.kind === 'write' ? tag === operation.tag : tag === 0;
    });
  }

  overlaps(operation: Operation): boolean {
    if (operation.kind === 'flush') return false;
    return this.#since.some(({ operation: other, completedAt }) => {
      if (other.kind === 'flush' || completedAt !== Infinity) return false;
      return (
        other.sector < operation.sector + operation.count && operation.sector < other.sector + other.count
      );
    });
  }
}

export type CutResult = { readonly image: Uint8Array; readonly lazy: boolean; readonly hadBacking: boolean };

/**
 * One cut. Where lazy refcounts are on, the image asks for a repair, which `repair` does.
 * @throws Error where the image does not open, or a flushed sector is lost
 */
export async function cutPower(
  seed: number,
  repair: (image: Uint8Array) => Promise<Uint8Array>,
): Promise<CutResult> {
  const random = new Random(seed);
  const geometry = randomGeometry(random);
  const size = randomSize(random, geometry);
  const hasBacking = geometry.preallocation !== 'metadata' && random.oneIn(2);
  const backing = hasBacking
    ? backingBytes(Math.min(size, SECTOR * random.between(1, size / SECTOR)))
    : undefined;
  const created = newImage({
    ...geometry,
    size,
    ...(hasBacking && { backingFile: 'backing.raw', backingFormat: 'raw' as const }),
  });
  const { disk, user, file } = await openCase(created, { random, track: true }, backing);
  const sectors = disk.size / SECTOR;
  const stable = new Int32Array(sectors);
  if (backing !== undefined) {
    for (let i = 0; i < Math.min(sectors, backing.length / SECTOR); i++) {
      stable[i] = tagOf(backing.subarray(i * SECTOR, (i + 1) * SECTOR), i) === BACKING_TAG ? BACKING_TAG : 0;
    }
  }
  const model = new SectorModel(stable);

  let inFlight = 0;
  let failed: string | undefined;
  for (let step = random.between(1, 40); step > 0; step--) {
    for (let batch = random.between(1, 6); batch > 0; batch--) {
      const operation = randomOperation(random, sectors, 0x1_0000 + step * 16 + batch);
      // Requests that overlap in flight have no order: the model would have to know all of them.
      if (model.overlaps(operation)) continue;
      const asked = model.clock;
      const entry = model.begin(operation);
      inFlight++;
      submit(user, operation, (error) => {
        inFlight--;
        if (error !== 0) failed ??= `${operation.kind}: errno ${error}`;
        model.complete(entry);
        if (operation.kind === 'flush') model.flushed(asked);
      });
    }
    disk.commit();
    for (let ios = random.below(30); ios > 0 && file.step(); ios--);
    if (random.oneIn(4)) while (inFlight > 0 && file.step());
  }
  // Most of what can go wrong does in the midst of a flush.
  if (random.oneIn(2)) {
    const asked = model.clock;
    submit(user, { kind: 'flush' }, () => model.flushed(asked));
    disk.commit();
    for (let ios = random.below(file.pending + 12); ios > 0 && file.step(); ios--);
  }
  if (failed !== undefined) throw new Error(`seed ${seed}: ${failed}`);

  let left = file.cut(random);
  file.close();
  const lazy = geometry.lazyRefcounts === true;
  if (lazy) left = await repair(left);
  const after = await openCase(left, {}, backing);
  const content = await after.user.content();
  for (let sector = 0; sector < sectors; sector++) {
    const tag = tagOf(content.subarray(sector * SECTOR, (sector + 1) * SECTOR), sector);
    if (!model.allows(sector, tag)) {
      throw new Error(
        `seed ${seed}: sector ${sector} has ${tag.toString(16)} after the cut ${JSON.stringify(geometry)}`,
      );
    }
  }
  await after.disk.close();
  return { image: left, lazy, hadBacking: hasBacking };
}
