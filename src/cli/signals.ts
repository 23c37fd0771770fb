import { EXIT } from './exit-codes.ts';

/** What ends a command from outside, and with what status. */
export const SIGNALS = { SIGINT: EXIT.interrupted, SIGTERM: EXIT.terminated, SIGHUP: EXIT.hangup } as const;

/** Does something that a signal may end: the process exits then, with the event `exit`, which removes what has only a temporary name. */
export async function endedBySignals<T>(use: () => Promise<T>): Promise<T> {
  const handlers = Object.entries(SIGNALS).map(
    ([signal, code]) => [signal as keyof typeof SIGNALS, () => process.exit(code)] as const,
  );
  for (const [signal, handler] of handlers) process.on(signal, handler);
  try {
    return await use();
  } finally {
    for (const [signal, handler] of handlers) process.off(signal, handler);
  }
}
