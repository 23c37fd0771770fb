/**
 * - `ok`: as it should be
 * - `warning`: tsvm runs guests, but something is slower or left out
 * - `missing`: tsvm cannot run guests
 */
export type CheckStatus = 'ok' | 'warning' | 'missing';

/** One thing that was looked at. */
export type Check = {
  /** stable, for programs */
  readonly id: string;
  readonly title: string;
  readonly status: CheckStatus;
  /** what was found, in one line */
  readonly detail: string;
  /** what tsvm needs it for */
  readonly purpose: string;
  /** what to do: a command, or a sentence; only where the status is not `ok` */
  readonly fix?: string;
};

/** Ids of the capability checks begin so; all are there or the KVM API check says why none is. */
export const CAPABILITY_PREFIX = 'kvm-cap-';

/** One line of an error, with its causes left out. */
export function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.split('\n', 1)[0] ?? '';
}

/** The way out that an error knows. */
export function hintOf(error: unknown): string | undefined {
  const hint = typeof error === 'object' && error !== null && 'hint' in error ? error.hint : undefined;
  return typeof hint === 'string' ? hint : undefined;
}
