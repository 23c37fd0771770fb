import type { Chain } from './chain.ts';
import type { Virtqueue } from './queue.ts';

/** How often a driver may add requests while the device arms notifications, before that is put off. */
const ARM_ATTEMPTS = 8;

/**
 * The next request; where there is none, the driver has been asked to notify of the next one.
 * @param later asked to try again in another turn of the event loop
 */
export function popOrArm(queue: Virtqueue, later: () => void): Chain | undefined {
  for (let attempt = 0; attempt < ARM_ATTEMPTS; attempt++) {
    const chain = queue.pop();
    if (chain !== undefined) return chain;
    if (!queue.enableNotifications()) return undefined;
  }
  later();
  return undefined;
}
