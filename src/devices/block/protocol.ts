/** Numbers of virtio-blk (VIRTIO 1.2, 5.2). */

export const BLOCK_DEVICE_ID = 2;
/** mass storage controller, other */
export const BLOCK_PCI_CLASS = 0x01_8000;

/** Feature bits (5.2.3). */
export const BLK_F = {
  segMax: 2,
  readOnly: 5,
  blkSize: 6,
  flush: 9,
  topology: 10,
  configWce: 11,
  mq: 12,
  discard: 13,
  writeZeroes: 14,
} as const;

/** Request types (5.2.6). */
export const BLK_T = {
  in: 0,
  out: 1,
  flush: 4,
  getId: 8,
  discard: 11,
  writeZeroes: 13,
} as const;

/** Request status. */
export const BLK_S = { ok: 0, ioError: 1, unsupported: 2 } as const;
export type BlockStatus = (typeof BLK_S)[keyof typeof BLK_S];

/** bytes; what `sector` and `capacity` count in, whatever the block size */
export const SECTOR = 512;
/** type, reserved, sector */
export const HEADER_SIZE = 16;
/** one segment of a discard or write-zeroes request: sector, number of sectors, flags */
export const RANGE_SIZE = 16;
export const RANGE_UNMAP = 1;
export const ID_SIZE = 20;

/** Most segments of one discard or write-zeroes request, and sectors of each: 2 GiB less a page. */
export const MAX_RANGES = 32;
export const MAX_RANGE_SECTORS = 2 ** 22 - 8;
