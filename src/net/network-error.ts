/** Something about a network of a VM that cannot be. The message is one line. */
export class NetworkError extends Error {
  override readonly name = 'NetworkError';
  /** such as EADDRINUSE, ENOENT, EINVAL */
  readonly code: string;
  /** the way out, where one is known */
  readonly hint: string | undefined;

  constructor(code: string, message: string, hint?: string) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}
