import { inspect, getSystemErrorMap } from 'node:util';

/** The user asked for something that cannot be meant: exit status 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly hint: string | undefined;

  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

function property(error: unknown, name: string): unknown {
  return typeof error === 'object' && error !== null && name in error
    ? (error as Record<string, unknown>)[name]
    : undefined;
}

/** An error of a system call as `open failed on FILE: no such file or directory`. */
function systemMessage(error: Error): string | undefined {
  const on = property(error, 'path') ?? property(error, 'request');
  const syscall = property(error, 'syscall');
  const errno = property(error, 'errno');
  if (typeof on !== 'string' || typeof syscall !== 'string' || typeof errno !== 'number') return undefined;
  // Node counts error numbers below zero, the kernel and KvmError above.
  const why = getSystemErrorMap().get(-Math.abs(errno))?.[1];
  return why === undefined ? undefined : `${syscall} failed on ${on}: ${why}`;
}

/** Text from files and guests as a terminal may have it: without control characters. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

function oneLine(text: string): string {
  return printable(text.trim().replace(/\s*\n\s*/g, '; '));
}

/** What went wrong, in one line, with the causes that the message does not tell itself. */
export function errorMessage(error: unknown): string {
  if (!(error instanceof Error)) return oneLine(String(error));
  const message = oneLine((systemMessage(error) ?? error.message) || error.name);
  if (!(error.cause instanceof Error)) return message;
  const cause = errorMessage(error.cause);
  return message.includes(cause) ? message : `${message}: ${cause}`;
}

/** The way out that an error or one of its causes knows. */
export function errorHint(error: unknown): string | undefined {
  const hint = property(error, 'hint');
  if (typeof hint === 'string' && hint !== '') return oneLine(hint);
  const cause = property(error, 'cause');
  return cause === undefined ? undefined : errorHint(cause);
}

/** An error as tsvm prints it: `tsvm: WHAT failed on WHAT: why`, a hint where there is one, the stack if asked. */
export function formatError(error: unknown, debug: boolean): string {
  const lines = [`tsvm: ${errorMessage(error)}`];
  const hint = errorHint(error);
  if (hint !== undefined) lines.push(`hint: ${hint}`);
  if (debug) lines.push(inspect(error));
  return `${lines.join('\n')}\n`;
}
