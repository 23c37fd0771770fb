import type { GuestBuffers } from '../../kvm/guest-buffers.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import { DISK_OPERATION, type DiskOperation, type DiskRequest } from '../../storage/disk.ts';
import type { Chain } from '../../virtio/chain.ts';
import { gather } from '../gather.ts';
import {
  BLK_S,
  BLK_T,
  HEADER_SIZE,
  MAX_RANGES,
  MAX_RANGE_SECTORS,
  RANGE_SIZE,
  RANGE_UNMAP,
  SECTOR,
  type BlockStatus,
} from './protocol.ts';

/** What a request is checked against. */
export type RequestLimits = {
  /** in sectors */
  capacity: number;
  /** logical block size in sectors */
  readonly blockSectors: number;
  readonly readOnly: boolean;
};

/**
 * One request of the driver, as what the disk is asked for. Every number of the driver's is read once, and what was
 * checked is what is used. Belongs to a head of a queue and is used again for the next request there.
 */
export class BlockRequest implements DiskRequest {
  /** index of its queue */
  readonly queue: number;
  readonly vector = new IoVector();
  /** set from pop to push */
  chain: Chain | undefined;
  operation: DiskOperation = DISK_OPERATION.flush;
  offset = 0;
  length = 0;
  unmap = false;
  /** segments of a discard or write-zeroes request: sector, number of sectors, unmap; done one by one */
  #ranges: Float64Array | undefined;
  #rangeCount = 0;
  #nextRange = 0;

  constructor(queue: number) {
    this.queue = queue;
  }

  /** Bytes of data that a limit on throughput counts. */
  get payload(): number {
    return this.operation === DISK_OPERATION.read || this.operation === DISK_OPERATION.write
      ? this.length
      : 0;
  }

  /** Whether it writes in any way. */
  get changes(): boolean {
    return this.operation !== DISK_OPERATION.read && this.operation !== DISK_OPERATION.flush;
  }

  flush(): void {
    this.operation = DISK_OPERATION.flush;
    this.offset = 0;
    this.length = 0;
  }

  /** Sets up the data of a read or write; the status of a request that cannot be, or 0. */
  transfer(chain: Chain, type: number, limits: RequestLimits, buffers: GuestBuffers): BlockStatus {
    const { readable, writable } = chain;
    const reading = type === BLK_T.in;
    if (!reading && limits.readOnly) return BLK_S.ioError;
    const length = reading ? writable.byteLength - 1 : readable.byteLength - HEADER_SIZE;
    if (length % SECTOR !== 0) return BLK_S.ioError;
    const sector = readable.readU64(8);
    if (!fits(sector, length / SECTOR, limits)) return BLK_S.ioError;
    this.operation = reading ? DISK_OPERATION.read : DISK_OPERATION.write;
    this.offset = sector * SECTOR;
    this.length = length;
    this.vector.clear();
    if (reading) gather(this.vector, buffers, writable, 0, length);
    else gather(this.vector, buffers, readable, HEADER_SIZE, length);
    return BLK_S.ok;
  }

  /** Sets up the segments of a discard or write-zeroes request (5.2.6.2), and the first of them. */
  ranges({ readable }: Chain, type: number, limits: RequestLimits): BlockStatus {
    const bytes = readable.byteLength - HEADER_SIZE;
    const count = bytes / RANGE_SIZE;
    if (limits.readOnly || count === 0 || !Number.isInteger(count) || count > MAX_RANGES) {
      return BLK_S.ioError;
    }
    const ranges = (this.#ranges ??= new Float64Array(3 * MAX_RANGES));
    for (let i = 0, at = HEADER_SIZE; i < count; i++, at += RANGE_SIZE) {
      const sector = readable.readU64(at);
      const sectors = readable.readU32(at + 8);
      const flags = readable.readU32(at + 12);
      const known = type === BLK_T.writeZeroes ? RANGE_UNMAP : 0;
      if ((flags & ~known) !== 0) return BLK_S.unsupported;
      if (sectors > MAX_RANGE_SECTORS || !fits(sector, sectors, limits)) return BLK_S.ioError;
      ranges[3 * i] = sector;
      ranges[3 * i + 1] = sectors;
      ranges[3 * i + 2] = flags;
    }
    this.operation = type === BLK_T.discard ? DISK_OPERATION.discard : DISK_OPERATION.writeZeroes;
    this.#rangeCount = count;
    this.#nextRange = 0;
    this.nextRange();
    return BLK_S.ok;
  }

  /** Goes on to the next segment; false where there is none, also for requests without. */
  nextRange(): boolean {
    if (this.operation !== DISK_OPERATION.discard && this.operation !== DISK_OPERATION.writeZeroes)
      return false;
    const at = 3 * this.#nextRange;
    if (this.#nextRange === this.#rangeCount) return false;
    this.#nextRange++;
    const ranges = this.#ranges!;
    this.offset = ranges[at]! * SECTOR;
    this.length = ranges[at + 1]! * SECTOR;
    this.unmap = ranges[at + 2] !== 0;
    return true;
  }
}

/** Inexact sectors, those above 2^53, are beyond any capacity too. */
function fits(sector: number, sectors: number, { capacity, blockSectors }: RequestLimits): boolean {
  if (sector > capacity || sectors > capacity - sector) return false;
  return sector % blockSectors === 0 && sectors % blockSectors === 0;
}
