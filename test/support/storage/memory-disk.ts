import { DISK_OPERATION, type Disk, type DiskClient, type DiskRequest } from '../../../src/storage/disk.ts';
import { SimFile } from './sim-file.ts';

/** A read-only disk in memory, as something below an overlay. Completes on commit, in reverse order. */
export class MemoryDisk implements Disk {
  readonly path = 'memory';
  readonly size: number;
  readonly readOnly = true;
  readonly blockSize = 512;
  readonly discards = false;
  readonly discardGranularity = 512;
  readonly #bytes: Uint8Array;
  readonly #memory = new SimFile('memory', new Uint8Array(0));
  #client: DiskClient | undefined;
  #queued: DiskRequest[] = [];
  closed = false;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  get inFlight(): number {
    return this.#queued.length;
  }

  attach(client: DiskClient): void {
    this.#client = client;
  }

  submit(request: DiskRequest): void {
    if (this.closed) throw new Error('a request to a closed disk');
    this.#queued.push(request);
  }

  commit(): void {
    for (const request of this.#queued.splice(0).reverse())
      this.#client?.completed(request, this.#read(request));
    this.#client?.batchEnd();
  }

  drain(): void {
    while (this.#queued.length > 0) this.commit();
  }

  resize(): Promise<void> {
    return Promise.reject(new Error('read-only'));
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  #read({ operation, offset, length, vector }: DiskRequest): number {
    if (operation !== DISK_OPERATION.read || offset + length > this.size || vector.byteLength !== length)
      return 22;
    let done = 0;
    for (let i = 0; i < vector.count; i++) {
      const target = this.#memory.bytes(vector.buffers[i]!);
      target.set(this.#bytes.subarray(offset + done, offset + done + vector.lengths[i]!), vector.offsets[i]);
      done += vector.lengths[i]!;
    }
    return 0;
  }
}
