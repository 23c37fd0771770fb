import { IoVector } from '../kvm/io-vector.ts';
import {
  DISK_OPERATION,
  StorageError,
  type Disk,
  type DiskClient,
  type DiskOperation,
  type DiskRequest,
} from './disk.ts';

/** Where buffers get their numbers: the ring, or a file over it. */
export type BufferRegistry = { register(bytes: Uint8Array): number; unregister(buffer: number): void };

/** A part of a {@link DiskBuffer}'s memory. */
export type DiskBuffer = { readonly bytes: Uint8Array; readonly buffer: number };

type Request = DiskRequest & { done: ((error: number) => void) | undefined };

/** A disk for code that waits for promises, instead of a guest: tools that copy and compare. */
export class PromisedDisk implements DiskClient {
  readonly disk: Disk;
  readonly #registry: BufferRegistry;
  readonly #free: Request[] = [];
  readonly #buffers: number[] = [];

  /** @param disk which nobody else uses meanwhile; closed by {@link close} */
  constructor(disk: Disk, registry: BufferRegistry) {
    this.disk = disk;
    this.#registry = registry;
    disk.attach(this);
  }

  /** Memory for requests to this or any other disk of the same ring, until this one is closed. */
  buffer(length: number): DiskBuffer {
    const bytes = new Uint8Array(new ArrayBuffer(length));
    const buffer = this.#registry.register(bytes);
    this.#buffers.push(buffer);
    return { bytes, buffer };
  }

  completed(request: DiskRequest, error: number): void {
    const own = request as Request;
    const { done } = own;
    own.done = undefined;
    this.#free.push(own);
    done?.(error);
  }

  batchEnd(): void {
    // Promises tell who waits.
  }

  /** @throws StorageError */
  read(offset: number, { buffer }: DiskBuffer, length: number, at = 0): Promise<void> {
    return this.#run(DISK_OPERATION.read, offset, length, buffer, at);
  }

  /** @throws StorageError */
  write(offset: number, { buffer }: DiskBuffer, length: number, at = 0): Promise<void> {
    return this.#run(DISK_OPERATION.write, offset, length, buffer, at);
  }

  /** @throws StorageError */
  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#run(DISK_OPERATION.writeZeroes, offset, length, -1, 0);
  }

  /** @throws StorageError */
  flush(): Promise<void> {
    return this.#run(DISK_OPERATION.flush, 0, 0, -1, 0);
  }

  async close(): Promise<void> {
    try {
      await this.disk.close();
    } finally {
      for (const buffer of this.#buffers.splice(0)) this.#registry.unregister(buffer);
    }
  }

  async #run(
    operation: DiskOperation,
    offset: number,
    length: number,
    buffer: number,
    at: number,
  ): Promise<void> {
    const request = this.#free.pop() ?? newRequest();
    request.operation = operation;
    request.offset = offset;
    request.length = length;
    request.unmap = true;
    request.vector.clear();
    if (buffer >= 0) request.vector.add(buffer, at, length);
    const error = await new Promise<number>((resolve) => {
      request.done = resolve;
      this.disk.submit(request);
      this.disk.commit();
    });
    if (error === 0) return;
    const what = NAMES[operation];
    throw new StorageError(
      this.disk.path,
      'EIO',
      `${what} of ${length} bytes at ${offset} failed: errno ${error}`,
    );
  }
}

const NAMES = ['read', 'write', 'flush', 'discard', 'write of zeros'];

function newRequest(): Request {
  return {
    operation: DISK_OPERATION.read,
    offset: 0,
    length: 0,
    vector: new IoVector(),
    unmap: true,
    done: undefined,
  };
}
