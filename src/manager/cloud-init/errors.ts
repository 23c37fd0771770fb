/** What cannot be told to a guest by cloud-init: why, and what to do about it. */
export class CloudInitError extends Error {
  override readonly name = 'CloudInitError';
  readonly code = 'ECLOUDINIT';
  readonly hint?: string;

  constructor(message: string, hint?: string) {
    super(message);
    if (hint !== undefined) this.hint = hint;
  }
}
