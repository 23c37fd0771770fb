import { IoVector } from '../../src/kvm/io-vector.ts';
import type { IoRing } from '../../src/kvm/io-ring.ts';
import { DISK_OPERATION, type Disk, type DiskRequest } from '../../src/storage/disk.ts';

type Request = DiskRequest & { readonly done: (error: number) => void };

export type Ask = {
  readonly operation: keyof typeof DISK_OPERATION;
  readonly offset?: number;
  readonly length?: number;
  readonly unmap?: boolean;
  /** pieces of memory of a read or write */
  readonly memory?: readonly Uint8Array[];
};

/** Uses a disk as a device does, for one that wants to wait for each request. */
export class DiskUser {
  readonly disk: Disk;
  /** calls of `batchEnd` */
  batches = 0;
  /** requests completed in the order they were */
  readonly completed: DiskRequest[] = [];
  readonly #ring: IoRing;

  constructor(ring: IoRing, disk: Disk) {
    this.#ring = ring;
    this.disk = disk;
    disk.attach({
      completed: (request, error) => {
        this.completed.push(request);
        (request as Request).done(error);
      },
      batchEnd: () => this.batches++,
    });
  }

  /** Queues without a commit; resolves with the errno. */
  submit({ operation, offset = 0, length, unmap = false, memory = [] }: Ask): Promise<number> {
    const vector = new IoVector();
    const buffers = memory.map((bytes) => {
      const buffer = this.#ring.register(bytes);
      vector.add(buffer, 0, bytes.length);
      return buffer;
    });
    const { promise, resolve } = withResolvers();
    const request: Request = {
      operation: DISK_OPERATION[operation],
      offset,
      length: length ?? vector.byteLength,
      vector,
      unmap,
      done: (error) => {
        for (const buffer of buffers) this.#ring.unregister(buffer);
        resolve(error);
      },
    };
    this.disk.submit(request);
    return promise;
  }

  /** Resolves with the errno. */
  ask(ask: Ask): Promise<number> {
    const done = this.submit(ask);
    this.disk.commit();
    return done;
  }

  /** @throws where the host fails it */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length).fill(0xee);
    const error = await this.ask({ operation: 'read', offset, memory: [bytes] });
    if (error !== 0) throw new Error(`read: errno ${error}`);
    return bytes;
  }

  /** @throws where the host fails it */
  async write(offset: number, ...memory: readonly Uint8Array[]): Promise<void> {
    const error = await this.ask({ operation: 'write', offset, memory });
    if (error !== 0) throw new Error(`write: errno ${error}`);
  }
}

function withResolvers(): { promise: Promise<number>; resolve: (error: number) => void } {
  let resolve: (error: number) => void = () => undefined;
  const promise = new Promise<number>((done) => (resolve = done));
  return { promise, resolve };
}
