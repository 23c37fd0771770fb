/** Options that make no sense together. */
export class OptionError extends RangeError {
  override readonly name = 'OptionError';
  readonly code = 'EOPTION';
  readonly hint: string | undefined;

  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}
