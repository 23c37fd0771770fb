import type { KernelFormat } from './types.ts';

/** One piece of a kernel file and where it goes; what `size` has more than `fileSize` is zeroed. */
export type Segment = {
  /** in the file */
  readonly offset: number;
  readonly fileSize: number;
  /** guest-physical address */
  readonly base: number;
  readonly size: number;
};

/** All that a parsed kernel file wants, before anything is written: pure data, checked as far as the file tells. */
export type KernelPlan = {
  readonly format: KernelFormat;
  readonly segments: readonly Segment[];
  /** guest-physical range that the kernel takes until it manages memory itself */
  readonly start: number;
  readonly end: number;
  /** guest-physical address of the first instruction */
  readonly entry: number;
  /** longest command line in bytes, without the NUL */
  readonly cmdlineLimit: number;
  /** the initrd ends at this address at the latest */
  readonly initrdLimit: number;
  /** the file's bytes from 0x1f1 on that go into the zero page (bzImage) */
  readonly setupHeader?: Uint8Array;
};
