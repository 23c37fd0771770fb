/** A VM's process refuses a request, or cannot be talked to. */
export class ControlError extends Error {
  override readonly name = 'ControlError';
  /** of the process: e.g. EAGENTTIMEOUT; ECONTROL where it does not answer */
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, hint?: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.hint = hint;
  }
}
