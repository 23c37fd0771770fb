import { GuestBuffers } from '../../kvm/guest-buffers.ts';
import type { GuestMemory } from '../../kvm/guest-memory.ts';
import type { IoRing } from '../../kvm/io-ring.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features } from '../../virtio/features.ts';
import { Poller, type PollerOptions } from '../../virtio/poller.ts';
import { fsConfig, type FsConfig } from './config.ts';
import type { SharedFolder } from './folder.ts';
import { FS_DEVICE_ID, FS_PCI_CLASS } from './protocol.ts';
import { FsQueue } from './queue.ts';
import type { FuseRequest } from './request.ts';
import { FuseServer } from './server.ts';
import { checkFsState, restoreServer, saveServer, type FsState } from './state.ts';

export type FsOptions = {
  /** e.g. `fs0` */
  readonly name: string;
  /** by which the guest mounts it, 1 to 36 bytes */
  readonly tag: string;
  /** stays the caller's to close, after the device */
  readonly folder: SharedFolder;
  readonly ring: IoRing;
  readonly log: (line: string) => void;
  /** of each queue, a power of two up to 1024; default 1024, which lets one request have 1 MiB */
  readonly queueSize?: number;
  readonly poll?: PollerOptions;
};

/** One event loop serves them all. */
const REQUEST_QUEUES = 1;
/** How often a queue is looked at once more because the driver was quick, before other work has its turn. */
const ROUNDS = 4;

/** virtio-fs (VIRTIO 1.2, 5.11): a folder of the host by the FUSE protocol. */
export class FsDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = FS_DEVICE_ID;
  readonly pciClass = FS_PCI_CLASS;
  /** no notifications to the guest (5.11.3): Linux has no use for them */
  readonly features = new Features(0, 0);
  readonly queueSizes: readonly number[];
  readonly config: FsConfig;
  readonly #ring: IoRing;
  readonly #server: FuseServer;
  readonly #poller: Poller;
  #memory: GuestMemory | undefined;
  #queues: readonly (FsQueue | undefined)[] = [];
  #againScheduled = false;
  #paused = false;
  #whenIdle: (() => void)[] = [];

  /** @throws RangeError for a tag that is none, KvmError */
  constructor(options: FsOptions) {
    const { name, tag, folder, ring, queueSize = 1024 } = options;
    this.name = name;
    this.config = fsConfig(tag, REQUEST_QUEUES);
    this.queueSizes = Array.from({ length: 1 + REQUEST_QUEUES }, () => queueSize);
    this.#ring = ring;
    this.#server = new FuseServer({
      folder,
      ring,
      log: options.log,
      answered: (request, written) => this.#answered(request, written),
      batchEnd: () => this.#batchEnd(),
    });
    this.#poller = new Poller({ poll: () => this.#poll(), rest: () => this.#rest() }, options.poll);
  }

  activate({ memory, queues }: Activation): void {
    if (memory !== this.#memory) {
      this.#server.buffers?.release();
      this.#memory = memory;
      this.#server.buffers = new GuestBuffers(this.#ring, memory);
    }
    this.#queues = queues.map((queue) => queue && new FsQueue(queue));
  }

  notified(index: number): void {
    this.#poller.woken();
    const queue = this.#queues[index];
    if (queue !== undefined) this.#run(queue);
  }

  reset(): Promise<void> | undefined {
    this.#queues = [];
    this.#poller.stop();
    this.#server.end();
    this.#server.commit();
    return this.#server.inFlight === 0 ? undefined : this.#idle();
  }

  quiesce(): void {
    this.#server.quiesce();
  }

  async pause(): Promise<void> {
    this.#paused = true;
    this.#poller.stop();
    if (this.#server.inFlight > 0) await this.#idle();
  }

  resume(): void {
    this.#paused = false;
  }

  save(): FsState {
    return saveServer(this.#server);
  }

  restore(data: unknown): void {
    restoreServer(this.name, this.#server, checkFsState(this.name, data));
  }

  /** Closes all files that the guest had; waits for what is under way. */
  close(): void {
    this.#queues = [];
    this.#poller.stop();
    this.#server.close();
    this.#server.buffers?.release();
    this.#server.buffers = this.#memory = undefined;
  }

  /** Serves a queue until it is empty, and sees to it that the next request is noticed. */
  #run(queue: FsQueue): void {
    for (let round = 0; round < ROUNDS; round++) {
      this.#serve(queue);
      this.#commit();
      if (queue.again || queue.waiting || this.#paused) return;
      if (this.#poller.worked(this.#server.inFlight > 0)) {
        for (const each of this.#queues) each?.mute();
        return;
      }
      if (!queue.listen()) return;
    }
    this.#later(queue);
  }

  /** Takes what is in a queue, within limits. Returns whether there was something. */
  #serve(queue: FsQueue): boolean {
    if (this.#paused) return false;
    const { virtqueue } = queue;
    const server = this.#server;
    queue.mute();
    queue.waiting = false;
    for (let taken = 0; ; taken++) {
      // A driver that makes requests as fast as they are taken must not hold the event loop.
      if (taken === 2 * virtqueue.size) {
        this.#later(queue);
        return true;
      }
      const request = server.take();
      if (request === undefined) {
        queue.waiting = true;
        return taken > 0;
      }
      const chain = virtqueue.pop();
      if (chain === undefined) {
        server.giveBack(request);
        return taken > 0;
      }
      request.queue = queue.index;
      request.chain = chain;
      server.handle(request);
    }
  }

  #answered({ queue: index, chain }: FuseRequest, written: number): void {
    const queue = this.#queues[index];
    // Of an activation that is over, of which another one may have the same heads.
    if (queue?.virtqueue.chain(chain!.head) !== chain) return;
    queue!.virtqueue.push(chain!.head, written);
    queue!.dirty = true;
  }

  #commit(): void {
    this.#server.commit();
    for (const queue of this.#queues) queue?.flush();
  }

  #batchEnd(): void {
    this.#commit();
    if (this.#server.inFlight === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
    for (const queue of this.#queues) if (queue?.waiting === true && !this.#paused) this.#later(queue);
    if (this.#poller.worked(this.#server.inFlight > 0)) for (const queue of this.#queues) queue?.mute();
  }

  #idle(): Promise<void> {
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  #poll(): boolean {
    let worked = this.#server.inFlight > 0 && this.#ring.reap() > 0;
    for (const queue of this.#queues) if (queue !== undefined && this.#serve(queue)) worked = true;
    if (worked) {
      this.#commit();
      this.#poller.worked(this.#server.inFlight > 0);
    }
    return worked;
  }

  #rest(): void {
    for (const queue of this.#queues) {
      if (queue !== undefined && !queue.again && !queue.waiting && queue.listen()) this.#run(queue);
    }
  }

  #later(queue: FsQueue): void {
    queue.again = true;
    if (this.#againScheduled) return;
    this.#againScheduled = true;
    setImmediate(() => {
      this.#againScheduled = false;
      for (const each of this.#queues) {
        if (each?.again !== true) continue;
        each.again = false;
        this.#run(each);
      }
    });
  }
}
