/**
 * A random sequence over a random image, mirrored in plain bytes: requests in flight beside one another, resizes,
 * snapshots, reopening. QEMU's tools have the last word, where they are there.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { Random } from '../../fuzz/random.ts';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import {
  backingBytes,
  newImage,
  openCase,
  randomGeometry,
  randomOperation,
  randomSize,
  SECTOR,
  sectorBytes,
  submit,
  type OpenCase,
  type Operation,
} from './image-case.ts';
import { noQemuTools, qemuCheck, qemuImg, qemuIo, temporaryFolder } from './qemu-img.ts';

type Range = { readonly sector: number; readonly count: number };

class Sequence {
  readonly #random: Random;
  readonly #folder: ReturnType<typeof temporaryFolder>;
  readonly #backing: Uint8Array | undefined;
  #model: Uint8Array;
  /** ranges that were discarded: there, zeros or what was before are both right until the next write */
  #either: Uint8Array;
  #case: OpenCase;
  readonly #log: string[] = [];
  #snapshots = 0;
  readonly #path: string;

  constructor(
    random: Random,
    folder: ReturnType<typeof temporaryFolder>,
    open: OpenCase,
    backing?: Uint8Array,
  ) {
    this.#random = random;
    this.#folder = folder;
    this.#case = open;
    this.#backing = backing;
    this.#path = folder.file('image.qcow2');
    const { size } = open.disk;
    this.#model = new Uint8Array(size);
    if (backing !== undefined) this.#model.set(backing.subarray(0, size));
    this.#either = new Uint8Array(size / SECTOR);
  }

  get history(): string {
    return this.#log.slice(-20).join('; ');
  }

  async run(steps: number): Promise<void> {
    for (let step = 1; step <= steps; step++) {
      const choice = this.#random.below(40);
      if (choice === 0) await this.#reopen();
      else if (choice === 1) await this.#resize();
      else if (choice === 2) await this.#snapshot();
      else if (choice === 3) await this.#qemuWrites(step);
      else if (choice < 8) await this.#compareSome();
      else await this.#batch(step);
    }
    await this.#compareAll();
    await this.#close();
  }

  /** Requests that do not overlap, all in flight together; or some that touch the same clusters. */
  async #batch(step: number): Promise<void> {
    const { disk, user, file } = this.#case;
    const taken: Range[] = [];
    const done: Promise<void>[] = [];
    for (let i = this.#random.between(1, 12); i > 0; i--) {
      const operation = randomOperation(this.#random, disk.size / SECTOR, 0x1_0000 + step * 32 + i);
      if (operation.kind !== 'flush') {
        const { sector, count } = operation;
        if (taken.some((other) => other.sector < sector + count && sector < other.sector + other.count))
          continue;
        taken.push({ sector, count });
      }
      this.#log.push(JSON.stringify(operation));
      done.push(
        new Promise((resolve, reject) => {
          submit(user, operation, (error) => {
            if (error === 0) resolve();
            else reject(new Error(`${operation.kind}: errno ${error}`));
          });
        }),
      );
      this.#apply(operation);
      if (this.#random.oneIn(3)) disk.commit();
      if (this.#random.oneIn(3)) for (let ios = this.#random.below(6); ios > 0 && file.step(); ios--);
    }
    disk.commit();
    if (this.#random.oneIn(4)) disk.drain();
    await Promise.all(done);
  }

  #apply(operation: Operation): void {
    if (operation.kind === 'flush') return;
    const { sector, count } = operation;
    const end = sector + count;
    if (operation.kind === 'discard') {
      this.#either.fill(1, sector, end);
      return;
    }
    this.#either.fill(0, sector, end);
    if (operation.kind === 'zero') this.#model.fill(0, sector * SECTOR, end * SECTOR);
    else this.#model.set(sectorBytes(sector, count, operation.tag), sector * SECTOR);
  }

  async #compareSome(): Promise<void> {
    const sectors = this.#model.length / SECTOR;
    const sector = this.#random.below(sectors);
    const count = this.#random.between(1, sectors - sector);
    this.#expect(await this.#case.user.read(sector * SECTOR, count * SECTOR), sector, 'own read');
  }

  async #compareAll(): Promise<void> {
    this.#expect(await this.#case.user.content(), 0, 'own read');
  }

  /** What a discard left is known from here on. */
  #expect(bytes: Uint8Array, sector: number, who: string): void {
    for (let at = 0; at < bytes.length; at += SECTOR) {
      const here = sector + at / SECTOR;
      const read = bytes.subarray(at, at + SECTOR);
      const model = this.#model.subarray(here * SECTOR, (here + 1) * SECTOR);
      if (Buffer.compare(read, model) === 0) continue;
      if (this.#either[here] !== 1 || read.some((byte) => byte !== 0))
        throw new Error(`${who}: sector ${here} is not as it was written`);
      model.fill(0);
      this.#either[here] = 0;
    }
  }

  /** Closes the image, has it looked at, and gives it to QEMU. */
  async #close(): Promise<void> {
    const { disk, file } = this.#case;
    await disk.close();
    const own = await checkImage(this.#reload());
    if (own.errors + own.leaks > 0) throw new Error(`own check: ${own.messages.join(', ')}`);
    if (noQemuTools !== undefined) return;
    file.save(this.#path);
    const check = qemuCheck(this.#path);
    if ((check.leaks ?? 0) + (check.corruptions ?? 0) + check['check-errors'] > 0)
      throw new Error(`qemu-img check: ${JSON.stringify(check)}`);
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', this.#path, this.#folder.file('content.raw'));
    this.#expect(readFileSync(this.#folder.file('content.raw')), 0, 'qemu-img convert');
    writeFileSync(this.#folder.file('model.raw'), this.#model);
    qemuImg('compare', '-f', 'qcow2', '-F', 'raw', this.#path, this.#folder.file('model.raw'));
  }

  #reload(): OpenCase['file'] {
    return this.#case.file.copy();
  }

  async #reopen(bytes?: Uint8Array): Promise<void> {
    this.#log.push('reopen');
    if (bytes === undefined) await this.#close();
    this.#case = await openCase(bytes ?? this.#case.file.content, { random: this.#random }, this.#backing);
  }

  async #resize(): Promise<void> {
    const { disk } = this.#case;
    if (this.#snapshots > 0) return;
    const size = SECTOR * this.#random.between(1, Math.floor((1.5 * disk.size) / SECTOR));
    this.#log.push(`resize ${size}`);
    await disk.resize(size);
    const model = new Uint8Array(size);
    model.set(this.#model.subarray(0, size));
    this.#model = model;
    const either = new Uint8Array(size / SECTOR);
    either.set(this.#either.subarray(0, size / SECTOR));
    this.#either = either;
  }

  /** By QEMU, while the image is closed: its clusters are shared then. */
  async #snapshot(): Promise<void> {
    if (noQemuTools !== undefined || this.#snapshots === 3 || this.#oneBitCounts()) return;
    await this.#close();
    this.#log.push('snapshot');
    const name = `s${++this.#snapshots}`;
    qemuImg('snapshot', '-c', name, this.#path);
    await this.#reopen(readFileSync(this.#path));
    writeFileSync(this.#folder.file(`${name}.raw`), this.#model);
  }

  #oneBitCounts(): boolean {
    return this.#case.disk.parts.image.geometry.refcountBits < 4;
  }

  /** QEMU writes to the image, and we go on with what it left. */
  async #qemuWrites(step: number): Promise<void> {
    if (noQemuTools !== undefined) return;
    await this.#close();
    const sectors = this.#model.length / SECTOR;
    const sector = this.#random.below(sectors);
    const count = this.#random.between(1, Math.min(64, sectors - sector));
    const pattern = 1 + (step % 200);
    this.#log.push(`qemu-io ${sector} ${count}`);
    qemuIo(this.#path, `write -P ${pattern} ${sector * SECTOR} ${count * SECTOR}`);
    this.#model.fill(pattern, sector * SECTOR, (sector + count) * SECTOR);
    this.#either.fill(0, sector, sector + count);
    await this.#reopen(readFileSync(this.#path));
  }

  /** What QEMU's snapshots hold must be as it was, whatever was written since. */
  compareSnapshots(): void {
    for (let i = 1; i <= this.#snapshots; i++) {
      const raw = this.#folder.file('snapshot.raw');
      qemuImg('convert', '-f', 'qcow2', '-l', `snapshot.name=s${i}`, '-O', 'raw', this.#path, raw);
      const expected = readFileSync(this.#folder.file(`s${i}.raw`));
      const found = readFileSync(raw);
      // The model knows of discards only by then; the snapshot itself was compared when it was taken.
      if (Buffer.compare(expected, found) !== 0) throw new Error(`snapshot ${i} has changed`);
    }
  }
}

/** @throws Error with the seed and what was done last */
export async function runSequence(seed: number, steps: number): Promise<void> {
  const random = new Random(seed);
  const folder = temporaryFolder();
  const geometry = randomGeometry(random);
  const size = randomSize(random, geometry);
  const hasBacking = geometry.preallocation !== 'metadata' && random.oneIn(2);
  // Smaller, as large, or larger.
  const backing = hasBacking ? backingBytes(SECTOR * random.between(1, (2 * size) / SECTOR)) : undefined;
  if (backing !== undefined) writeFileSync(folder.file('backing.raw'), backing);
  const created = newImage({
    ...geometry,
    size,
    ...(hasBacking && { backingFile: 'backing.raw', backingFormat: 'raw' as const }),
  });
  let sequence: Sequence | undefined;
  try {
    sequence = new Sequence(random, folder, await openCase(created, { random }, backing), backing);
    await sequence.run(steps);
    sequence.compareSnapshots();
  } catch (error) {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new Error(
      `seed ${seed} (${JSON.stringify({ ...geometry, size })}): ${reason}\n${sequence?.history}`,
      {
        cause: error,
      },
    );
  } finally {
    folder.remove();
  }
}
