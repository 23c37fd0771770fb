/** A snapshot that cannot be taken or used: what of it, why, and what to do about it. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  /**
   * - `EDAMAGED`: not as it was written: cut short, changed, or parts are gone
   * - `EVERSION`: of a newer tsvm
   * - `EFOREIGN`: no snapshot, or one of another machine than the settings describe
   * - `EHOST`: this host's processor or KVM cannot go on with it
   * - `EDISK`: a disk that cannot be frozen
   * - `EENDED`: the VM has ended meanwhile
   * - else the code of a system call, such as `ENOSPC`
   */
  readonly code: string;
  readonly path: string;
  readonly hint?: string;

  constructor(path: string, code: string, message: string, hint?: string) {
    super(`${path}: ${message}`);
    this.path = path;
    this.code = code;
    if (hint !== undefined) this.hint = hint;
  }
}
