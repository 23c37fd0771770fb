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

export type ErrorDetails = {
  readonly message: string;
  readonly code?: string;
  readonly hint?: string;
};

/** What another process is told of an error: whatever was thrown here. */
export function errorDetails(error: unknown): ErrorDetails {
  if (!(error instanceof Error)) return { message: String(error) };
  const { message, code, hint } = error as Error & { readonly code?: unknown; readonly hint?: unknown };
  return {
    message,
    ...(typeof code === 'string' && { code }),
    ...(typeof hint === 'string' && { hint }),
  };
}
