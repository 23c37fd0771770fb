/**
 * Numbers of the qcow2 format, after QEMU's docs/interop/qcow2.txt. Names in quotation marks, here and in the other
 * files of this folder, are its sections and fields.
 */

export const MAGIC = 0x514649fb;

/** "Header": incompatible_features */
export const INCOMPATIBLE = {
  dirty: 1 << 0,
  corrupt: 1 << 1,
  externalData: 1 << 2,
  compressionType: 1 << 3,
  extendedL2: 1 << 4,
} as const;

/** "Header": compatible_features */
export const COMPATIBLE = { lazyRefcounts: 1 << 0 } as const;

/** "Header": autoclear_features */
export const AUTOCLEAR = { bitmaps: 1 << 0, rawExternalData: 1 << 1 } as const;

/** "Header extensions" */
export const EXTENSION = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
  /** ours, "tsvb": what the backing file was when the overlay was made (see backing-stamp.ts) */
  backingStamp: 0x74737662,
} as const;

export const COMPRESSION = { zlib: 0, zstd: 1 } as const;
export type Compression = keyof typeof COMPRESSION;

export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
/** "Header": cluster_bits, the note on extended L2 entries */
export const MIN_EXTENDED_CLUSTER_BITS = 14;
/** QEMU's limits, in bytes. They bound what opening an image costs. */
export const MAX_L1_BYTES = 32 * 2 ** 20;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 2 ** 20;
export const MAX_SNAPSHOTS = 65536;
export const MAX_BACKING_NAME = 1023;

/** high halves of 64-bit table entries: bit 63, bit 62, and bits 32 to 55 of an offset */
export const HIGH_COPIED = 0x8000_0000;
export const HIGH_COMPRESSED = 0x4000_0000;
export const HIGH_OFFSET = 0x00ff_ffff;
/** low half: bits 9 to 31 of an offset, and bit 0, "reads as zeros" */
export const LOW_OFFSET = 0xffff_fe00;
export const LOW_ZERO = 1;

export const SECTOR = 512;

export const alignDown = (value: number, unit: number): number => value - (value % unit);
export const alignUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;
export const toHex = (value: number): string => `0x${value.toString(16)}`;
