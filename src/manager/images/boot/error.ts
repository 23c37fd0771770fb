export type NotBootableCode =
  /** nothing but zeros */
  | 'EEMPTY'
  /** nobody has put a kernel there, as far as it can be read */
  | 'ENOKERNEL'
  /** what would have the kernel is a file system, or encrypted, in a way that is not read: the message names it */
  | 'EFILESYSTEM'
  /** the entry that would be booted names a file that is not there, or is no kernel of this kind of machine */
  | 'EENTRY'
  /** a kernel, initrd or command line of more than it may have */
  | 'ETOOBIG'
  /** the partitions or a file system are damaged, or the image cannot be read */
  | 'EDAMAGED';

/** Why a disk cannot be booted by a kernel taken out of it; one line. */
export class NotBootableError extends Error {
  override readonly name = 'NotBootableError';
  readonly code: NotBootableCode;

  constructor(code: NotBootableCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
