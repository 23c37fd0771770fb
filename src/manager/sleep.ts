import { setTimeout as delay } from 'node:timers/promises';

/** Resolves after a time in milliseconds, or when the signal is aborted; its own error would hide the signal's reason. */
export const sleep = (time: number, signal?: AbortSignal): Promise<void> =>
  delay(time, undefined, signal && { signal }).catch(() => undefined);
