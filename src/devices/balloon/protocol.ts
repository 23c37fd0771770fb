/** Numbers of the traditional memory balloon (VIRTIO 1.2, 5.5). */
import type { Features } from '../../virtio/features.ts';
import type { Virtqueue } from '../../virtio/queue.ts';

/**
 * Free page hinting (3) is not offered: it is for skipping free pages in a migration, asks for a command by the host,
 * and what it tells free page reporting tells as well, all the time.
 */
export const BALLOON_F = {
  mustTellHost: 0,
  statistics: 1,
  deflateOnOom: 2,
  pagePoison: 4,
  pageReporting: 5,
} as const;

/** The unit of page numbers and of the sizes in the configuration space, whatever the guest's pages are. */
export const PAGE = 4096;

export const QUEUE = { inflate: 0, deflate: 1, statistics: 2, hint: 3, reporting: 4 } as const;

/**
 * Entries of each queue. Linux reports 32 ranges at once and gives the whole device up where the queue has less room,
 * and each of the last three may be the reporting queue.
 */
export const QUEUE_SIZES: readonly number[] = [128, 128, 128, 128, 128];

/**
 * The reporting queue. By the specification it is number 4, whether queues before it exist or not; Linux (but for a
 * few versions) counts only those that exist, and does not set up the last ones here.
 */
export function reportingQueue(
  features: Features,
  queues: readonly (Virtqueue | undefined)[],
): Virtqueue | undefined {
  if (!features.has(BALLOON_F.pageReporting)) return undefined;
  return (
    queues[QUEUE.reporting] ?? queues[features.has(BALLOON_F.statistics) ? QUEUE.hint : QUEUE.statistics]
  );
}
