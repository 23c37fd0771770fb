import type { GuestBuffers } from '../../kvm/guest-buffers.ts';
import type { GuestMemory } from '../../kvm/guest-memory.ts';
import type { Disk, DiskRequest } from '../../storage/disk.ts';
import type { Chain } from '../../virtio/chain.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features } from '../../virtio/features.ts';
import { Poller, type PollerOptions } from '../../virtio/poller.ts';
import { RateLimiter, type RateLimits } from '../rate-limit.ts';
import { blockConfig, type BlockConfig } from './config.ts';
import { ErrorLog } from './error-log.ts';
import {
  BLK_F,
  BLK_S,
  BLK_T,
  BLOCK_DEVICE_ID,
  BLOCK_PCI_CLASS,
  HEADER_SIZE,
  ID_SIZE,
  SECTOR,
  type BlockStatus,
} from './protocol.ts';
import { BlockQueue } from './queue.ts';
import { BlockRequest, type RequestLimits } from './request.ts';
import { checkBlockState, type BlockState } from './state.ts';
import { TrafficCounter, type DiskTraffic } from './traffic.ts';

export type BlockOptions = {
  /** e.g. `block0` */
  readonly name: string;
  /** stays the caller's to close, once the device is reset or closed */
  readonly disk: Disk;
  /** Guest memory as the disk's I/O ring knows it; released with the device. */
  readonly buffers: (memory: GuestMemory) => GuestBuffers;
  /** takes lines about requests that the host fails */
  readonly log: (line: string) => void;
  /** what the guest finds the disk by, up to 20 ASCII characters */
  readonly serial?: string;
  /** 1 to 64; default 1 */
  readonly queues?: number;
  /** a power of two up to 1024; default 256 */
  readonly queueSize?: number;
  /** logical, in bytes; default 512. A partition table is read in these units. */
  readonly blockSize?: 512 | 4096;
  readonly rate?: RateLimits;
  /** Delivers I/O that has completed, without a system call where there is none: `IoRing.reap`, to poll it too. */
  readonly reap?: () => number;
  readonly poll?: PollerOptions;
};

/** How often a queue is looked at once more because the driver was quick, before other work has its turn. */
const ROUNDS = 4;

function serialBytes(serial: string): Uint8Array {
  const bytes = Buffer.from(serial, 'ascii');
  if (bytes.length > ID_SIZE || !/^[\x20-\x7e]*$/.test(serial)) {
    throw new RangeError(`a serial number has at most ${ID_SIZE} ASCII characters: ${serial}`);
  }
  const id = new Uint8Array(ID_SIZE);
  id.set(bytes);
  return id;
}

function featuresOf(disk: Disk, queues: number): Features {
  const bits: number[] = [BLK_F.segMax, BLK_F.blkSize, BLK_F.flush, BLK_F.topology, BLK_F.configWce];
  if (queues > 1) bits.push(BLK_F.mq);
  if (disk.readOnly) bits.push(BLK_F.readOnly);
  else bits.push(BLK_F.writeZeroes, ...(disk.discards ? [BLK_F.discard] : []));
  return Features.of(...bits);
}

/** virtio-blk (VIRTIO 1.2, 5.2) on a disk of the host. */
export class BlockDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = BLOCK_DEVICE_ID;
  readonly pciClass = BLOCK_PCI_CLASS;
  readonly features: Features;
  readonly queueSizes: readonly number[];
  readonly config: BlockConfig;
  readonly #disk: Disk;
  readonly #newBuffers: (memory: GuestMemory) => GuestBuffers;
  readonly #errors: ErrorLog;
  readonly #id: Uint8Array;
  readonly #limits: RequestLimits;
  readonly #limiter: RateLimiter;
  readonly #traffic = new TrafficCounter();
  readonly #poller: Poller;
  readonly #reap: () => number;
  /** by queue and head */
  readonly #requests: (BlockRequest | undefined)[][];
  #memory: GuestMemory | undefined;
  #buffers: GuestBuffers | undefined;
  #features = new Features(0, 0);
  #writeback = true;
  /** the cache mode is the one of the machine that was saved */
  #restored = false;
  #queues: readonly (BlockQueue | undefined)[] = [];
  #inFlight = 0;
  /** requests were handed to the disk since the last commit */
  #uncommitted = false;
  #againScheduled = false;
  #paused = false;
  #whenIdle: (() => void)[] = [];

  /** @throws RangeError for options that are out of range */
  constructor(options: BlockOptions) {
    const { name, disk, queues = 1, queueSize = 256, blockSize = SECTOR } = options;
    if (!Number.isInteger(queues) || queues < 1 || queues > 64) throw new RangeError(`${queues} queues`);
    this.name = name;
    this.#disk = disk;
    this.#newBuffers = options.buffers;
    this.#errors = new ErrorLog(disk.path, options.log);
    this.#id = serialBytes(options.serial ?? '');
    this.#limits = {
      capacity: disk.size / SECTOR,
      blockSectors: blockSize / SECTOR,
      readOnly: disk.readOnly,
    };
    this.features = featuresOf(disk, queues);
    this.queueSizes = Array.from({ length: queues }, () => queueSize);
    this.#requests = this.queueSizes.map((size) => Array.from({ length: size }, () => undefined));
    this.config = blockConfig(
      {
        capacity: disk.size,
        blockSize,
        physicalBlockSize: Math.max(blockSize, disk.blockSize),
        queues,
        queueSize,
        discards: disk.discards,
        discardGranularity: Math.max(blockSize, disk.discardGranularity),
      },
      () => this.#readCacheMode(),
    );
    this.#limiter = new RateLimiter(options.rate ?? {}, () => this.#admitted());
    this.#reap = options.reap ?? (() => 0);
    this.#poller = new Poller({ poll: () => this.#poll(), rest: () => this.#rest() }, options.poll);
    disk.attach({
      completed: (request, error) => this.#completed(request, error),
      batchEnd: () => this.#batchEnd(),
    });
  }

  /** What the disk has done for the guest since its last boot. */
  get traffic(): DiskTraffic {
    return this.#traffic;
  }

  /** Tells the driver of a new size of the disk. */
  resized(): void {
    this.config.set({ capacity: this.#disk.size / SECTOR });
  }

  activate({ memory, features, queues }: Activation): void {
    if (memory !== this.#memory) {
      this.#buffers?.release();
      this.#memory = memory;
      this.#buffers = this.#newBuffers(memory);
    }
    this.#features = features;
    const mayBeVolatile = features.has(BLK_F.flush) || !features.has(BLK_F.configWce);
    // 5.2.5.2: a driver that cannot flush chooses a volatile cache itself, where it wants one
    if (!mayBeVolatile && !this.#restored && this.config.get('writeback') !== 0)
      this.config.set({ writeback: 0 });
    this.#restored = false;
    this.#readCacheMode();
    this.#queues = queues.map((queue) => queue && new BlockQueue(queue));
  }

  notified(index: number): void {
    this.#poller.woken();
    const queue = this.#queues[index];
    if (queue !== undefined) this.#run(queue);
  }

  reset(): Promise<void> | undefined {
    this.#restored = false;
    this.#queues = [];
    this.#limiter.stop();
    this.#poller.stop();
    if (this.config.get('writeback') !== 1) this.config.set({ writeback: 1 });
    return this.#inFlight === 0 ? undefined : this.#idle();
  }

  quiesce(): void {
    this.#disk.drain();
  }

  async pause(): Promise<void> {
    this.#paused = true;
    this.#limiter.stop();
    this.#poller.stop();
    if (this.#inFlight > 0) await this.#idle();
  }

  resume(): void {
    this.#paused = false;
    for (const queue of this.#queues) if (queue !== undefined) queue.limited = false;
  }

  save(): BlockState {
    return { writeback: this.config.get('writeback') === 0 ? 0 : 1 };
  }

  restore(data: unknown): void {
    const { writeback } = checkBlockState(this.name, data);
    this.config.set({ writeback });
    this.#restored = true;
  }

  /** Frees what it holds of guest memory and of timers; the device is reset, or its machine has stopped. */
  close(): void {
    this.#queues = [];
    this.#limiter.stop();
    this.#poller.stop();
    this.#buffers?.release();
    this.#buffers = this.#memory = undefined;
  }

  /** The cache mode as the driver has negotiated and set it (5.2.6.2, "A write becomes stable"). */
  #readCacheMode(): void {
    const features = this.#features;
    this.#writeback = features.has(BLK_F.configWce)
      ? this.config.get('writeback') !== 0
      : features.has(BLK_F.flush);
    // other values than 0 and 1 have no meaning
    if (this.config.get('writeback') > 1) this.config.set({ writeback: 1 });
  }

  /** Serves a queue until it is empty, and sees to it that the next request is noticed. */
  #run(queue: BlockQueue): void {
    for (let round = 0; round < ROUNDS; round++) {
      this.#serve(queue);
      this.#commit();
      if (queue.limited || queue.again || this.#paused) return;
      if (this.#poller.worked(this.#inFlight > 0)) {
        this.#mute();
        return;
      }
      if (!queue.listen()) return;
    }
    this.#later(queue);
  }

  /** Takes what is in a queue, within limits. Returns whether there was something. */
  #serve(queue: BlockQueue): boolean {
    if (this.#paused || queue.limited) return false;
    const { virtqueue } = queue;
    this.#limits.capacity = this.#disk.size / SECTOR;
    queue.mute();
    for (let taken = 0; ; taken++) {
      // A driver that makes requests as fast as they are taken must not hold the event loop.
      if (taken === 2 * virtqueue.size) {
        this.#later(queue);
        return true;
      }
      if (!this.#limiter.admits()) {
        queue.limited = true;
        return taken > 0;
      }
      const chain = virtqueue.pop();
      if (chain === undefined) return taken > 0;
      this.#begin(queue, chain);
    }
  }

  #begin(queue: BlockQueue, chain: Chain): void {
    const { head, readable, writable } = chain;
    const request = (this.#requests[queue.index]![head] ??= new BlockRequest(queue.index));
    request.chain = chain;
    if (writable.byteLength === 0) {
      // no place for a status
      queue.virtqueue.push(head, 0);
      queue.dirty = true;
      return;
    }
    if (readable.byteLength < HEADER_SIZE) {
      this.#finish(queue, request, BLK_S.ioError);
      return;
    }
    const status = this.#parse(request, chain);
    this.#limiter.spend(status === undefined ? request.payload : 0);
    if (status === undefined) this.#submit(request);
    else this.#finish(queue, request, status);
  }

  /** Reads a request; a status where it is answered at once. */
  #parse(request: BlockRequest, chain: Chain): BlockStatus | undefined {
    const type = chain.readable.readU32(0);
    let status: BlockStatus;
    switch (type) {
      case BLK_T.in:
      case BLK_T.out:
        status = request.transfer(chain, type, this.#limits, this.#buffers!);
        break;
      case BLK_T.flush:
        request.flush();
        return undefined;
      case BLK_T.discard:
        if (!this.#features.has(BLK_F.discard)) return BLK_S.unsupported;
        status = request.ranges(chain, type, this.#limits);
        break;
      case BLK_T.writeZeroes:
        if (!this.#features.has(BLK_F.writeZeroes)) return BLK_S.unsupported;
        status = request.ranges(chain, type, this.#limits);
        break;
      case BLK_T.getId:
        if (chain.writable.byteLength - 1 < ID_SIZE) return BLK_S.ioError;
        chain.writable.write(0, this.#id);
        return BLK_S.ok;
      default:
        return BLK_S.unsupported;
    }
    return status === BLK_S.ok ? undefined : status;
  }

  #submit(request: BlockRequest): void {
    this.#inFlight++;
    this.#uncommitted = true;
    this.#disk.submit(request);
  }

  /** Hands what was taken to the host, and the driver what is done. */
  #commit(): void {
    if (this.#uncommitted) {
      this.#uncommitted = false;
      this.#disk.commit();
    }
    for (const queue of this.#queues) queue?.flush();
  }

  #completed(request: DiskRequest, error: number): void {
    if (!(request instanceof BlockRequest)) return;
    this.#inFlight--;
    if (error !== 0) this.#errors.failed(request, error);
    else this.#traffic.done(request);
    const queue = this.#queues[request.queue];
    if (queue === undefined || queue.virtqueue.ended) return;
    if (error !== 0) this.#finish(queue, request, BLK_S.ioError);
    else if (request.nextRange()) this.#submit(request);
    else if (!this.#writeback && request.changes) {
      // stable before it completes
      request.flush();
      this.#submit(request);
    } else this.#finish(queue, request, BLK_S.ok);
  }

  /** The status goes into the last byte that the driver gives room for, after everything else. */
  #finish(queue: BlockQueue, request: BlockRequest, status: BlockStatus): void {
    const { head, writable } = request.chain!;
    const { byteLength } = writable;
    request.chain = undefined;
    writable.writeU8(byteLength - 1, status);
    queue.virtqueue.push(head, byteLength);
    queue.dirty = true;
  }

  #batchEnd(): void {
    this.#commit();
    if (this.#inFlight === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
    if (this.#poller.worked(this.#inFlight > 0)) this.#mute();
  }

  #idle(): Promise<void> {
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  #poll(): boolean {
    let worked = this.#inFlight > 0 && this.#reap() > 0;
    for (const queue of this.#queues) if (queue !== undefined && this.#serve(queue)) worked = true;
    if (worked) {
      this.#commit();
      this.#poller.worked(this.#inFlight > 0);
    }
    return worked;
  }

  #rest(): void {
    for (const queue of this.#queues) {
      if (queue !== undefined && !queue.limited && !queue.again && queue.listen()) this.#run(queue);
    }
  }

  #mute(): void {
    for (const queue of this.#queues) queue?.mute();
  }

  /** The limits let requests pass again. */
  #admitted(): void {
    for (const queue of this.#queues) {
      if (queue?.limited !== true) continue;
      queue.limited = false;
      this.#run(queue);
    }
  }

  #later(queue: BlockQueue): void {
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
