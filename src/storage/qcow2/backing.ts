import type { DiskClient, DiskRequest, Disk } from '../disk.ts';
import { DISK_OPERATION } from '../disk.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import type { Operation } from './operation.ts';

type Part = DiskRequest & { operation: 0; owner: Operation | undefined };

/** The file below an overlay, as parts of operations read from it. */
export class Backing implements DiskClient {
  readonly disk: Disk;
  readonly #onBatch: () => void;
  readonly #parts = new Map<DiskRequest, Part>();
  readonly #free: Part[] = [];
  #queued = false;

  /** @param disk read-only; closed with the overlay */
  constructor(disk: Disk, onBatch: () => void) {
    this.disk = disk;
    this.#onBatch = onBatch;
    disk.attach(this);
  }

  get size(): number {
    return this.disk.size;
  }

  get inFlight(): number {
    return this.disk.inFlight;
  }

  /** Reads a part of an operation. The range ends within the disk. */
  read(owner: Operation, offset: number, length: number): void {
    const part = this.#free.pop() ?? this.#newPart();
    part.offset = offset;
    part.length = length;
    part.owner = owner;
    part.vector.clear();
    part.vector.addSlice(owner.vector, offset - owner.offset, length);
    owner.partBegun();
    this.#queued = true;
    this.disk.submit(part);
  }

  commit(): void {
    if (!this.#queued) return;
    this.#queued = false;
    this.disk.commit();
  }

  completed(request: DiskRequest, error: number): void {
    const part = this.#parts.get(request);
    if (part?.owner === undefined) return;
    const { owner } = part;
    part.owner = undefined;
    this.#free.push(part);
    owner.partDone(error);
  }

  batchEnd(): void {
    this.#onBatch();
  }

  #newPart(): Part {
    const operation = DISK_OPERATION.read;
    const part: Part = {
      operation,
      offset: 0,
      length: 0,
      vector: new IoVector(),
      unmap: false,
      owner: undefined,
    };
    this.#parts.set(part, part);
    return part;
  }
}
