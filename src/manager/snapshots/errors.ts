/** A snapshot cannot be found, taken, used or changed. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  /** ENOSNAP, EEXIST, EFORMAT, EDISK, ENOSPC, … */
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, hint?: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.hint = hint;
  }
}
