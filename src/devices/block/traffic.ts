import { DISK_OPERATION } from '../../storage/disk.ts';
import type { BlockRequest } from './request.ts';

/** Requests of a disk that have been done, and their bytes. */
export type DiskTraffic = {
  readonly reads: number;
  readonly readBytes: number;
  readonly writes: number;
  readonly writtenBytes: number;
};

/** Counts requests of a device since its guest's last boot. */
export class TrafficCounter implements DiskTraffic {
  reads = 0;
  readBytes = 0;
  writes = 0;
  writtenBytes = 0;

  done({ operation, length }: BlockRequest): void {
    if (operation === DISK_OPERATION.read) {
      this.reads++;
      this.readBytes += length;
    } else if (operation === DISK_OPERATION.write) {
      this.writes++;
      this.writtenBytes += length;
    }
  }
}
