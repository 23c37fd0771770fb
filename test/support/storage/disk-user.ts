/** Uses a disk as a device does, with bytes instead of guest memory. */
import { IoVector } from '../../../src/kvm/io-vector.ts';
import {
  DISK_OPERATION,
  type Disk,
  type DiskClient,
  type DiskOperation,
  type DiskRequest,
} from '../../../src/storage/disk.ts';
import { registerMemory, unregisterMemory } from './sim-file.ts';

type Done = (error: number) => void;

export class DiskUser implements DiskClient {
  readonly disk: Disk;
  readonly #done = new Map<DiskRequest, Done>();
  batches = 0;

  constructor(disk: Disk) {
    this.disk = disk;
    disk.attach(this);
  }

  completed(request: DiskRequest, error: number): void {
    const done = this.#done.get(request);
    if (done === undefined) throw new Error('a completion of nothing');
    this.#done.delete(request);
    done(error);
  }

  batchEnd(): void {
    this.batches++;
  }

  /** Submits without a commit; `done` is told. */
  submit(
    operation: DiskOperation,
    offset: number,
    bytes: Uint8Array | number,
    done: Done,
    unmap = false,
  ): void {
    const vector = new IoVector();
    const length = typeof bytes === 'number' ? bytes : bytes.length;
    let buffer = -1;
    if (typeof bytes !== 'number') {
      buffer = registerMemory(bytes);
      // Two pieces: what is split must be put together right.
      const cut = Math.floor(length / 3);
      vector.add(buffer, 0, cut);
      vector.add(buffer, cut, length - cut);
    }
    const request: DiskRequest = { operation, offset, length, vector, unmap };
    this.#done.set(request, (error) => {
      if (buffer >= 0) unregisterMemory(buffer);
      done(error);
    });
    this.disk.submit(request);
  }

  async #run(
    operation: DiskOperation,
    offset: number,
    bytes: Uint8Array | number,
    unmap = false,
  ): Promise<void> {
    const error = await new Promise<number>((resolve) => {
      this.submit(operation, offset, bytes, resolve, unmap);
      this.disk.commit();
    });
    if (error !== 0) throw new Error(`errno ${error}`);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length).fill(0xee);
    await this.#run(DISK_OPERATION.read, offset, bytes);
    return bytes;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#run(DISK_OPERATION.write, offset, bytes);
  }

  flush(): Promise<void> {
    return this.#run(DISK_OPERATION.flush, 0, 0);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#run(DISK_OPERATION.discard, offset, length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    return this.#run(DISK_OPERATION.writeZeroes, offset, length, unmap);
  }

  /** Reads all of it. */
  async content(): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.disk.size);
    const step = 2 ** 20;
    for (let at = 0; at < bytes.length; at += step) {
      bytes.set(await this.read(at, Math.min(step, bytes.length - at)), at);
    }
    return bytes;
  }
}
