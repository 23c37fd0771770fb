/** Why an image cannot be had, told apart by programs. */
export type ImageErrorCode =
  /** no such image, here or in the catalogue */
  | 'ENOENT'
  /** what the catalogue, the user's settings or a name says cannot be */
  | 'EINVAL'
  /** a server cannot be reached, or stops */
  | 'ENETWORK'
  /** a server refuses */
  | 'EHTTP'
  /** what came is not what the distributor's list of checksums says */
  | 'ECHECKSUM'
  /** a file is not of the format that it is said to be, or not one that can be used */
  | 'EFORMAT'
  | 'ENOSPC'
  /** VMs use it */
  | 'EBUSY'
  | 'EEXIST'
  | 'EIO';

export class ImageError extends Error {
  override readonly name = 'ImageError';
  readonly code: ImageErrorCode;
  /** what to do about it, where there is something */
  readonly hint?: string;

  constructor(
    code: ImageErrorCode,
    message: string,
    options: { readonly hint?: string; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options.hint !== undefined) this.hint = options.hint;
  }
}
