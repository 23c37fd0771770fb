import { AgentTimeoutError } from '../agent/errors.ts';
import { aborted } from './http.ts';

/**
 * Waits until a guest that goes on from a snapshot has been told what it has to know, or the client has gone.
 * @param timeout in milliseconds; undefined: none
 * @throws AgentTimeoutError
 */
export async function untilWoken(
  woken: Promise<void> | undefined,
  timeout: number | undefined,
  signal: AbortSignal,
): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    if (timeout === undefined) return;
    const what = "end of the guest's wake-up (its clock, random numbers, a clone's identity)";
    timer = setTimeout(() => reject(new AgentTimeoutError(what, timeout)), timeout);
  });
  try {
    await Promise.race([woken, aborted(signal), late]);
  } finally {
    clearTimeout(timer);
  }
}
