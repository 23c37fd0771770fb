import { PageRanges } from '../../kvm/page-ranges.ts';
import type { Chain } from '../../virtio/chain.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import type { PageReader } from './page-requests.ts';

/** A queue whose requests name pages for the host. A request is done in steps, so that none holds the event loop. */
export class ReclaimQueue {
  readonly #queue: Virtqueue;
  readonly #reader: PageReader;
  readonly #reclaim: (ranges: PageRanges) => void;
  readonly #ranges = new PageRanges();
  #chain: Chain | undefined;
  #position = 0;

  /** @param reclaim gives pages back; the driver hears of the request's end afterwards */
  constructor(queue: Virtqueue, reader: PageReader, reclaim: (ranges: PageRanges) => void) {
    this.#queue = queue;
    this.#reader = reader;
    this.#reclaim = reclaim;
  }

  /** Does one step. Returns false where nothing is left to do until the next notification. */
  step(): boolean {
    const queue = this.#queue;
    if (queue.ended) return false;
    this.#chain ??= this.#next();
    const chain = this.#chain;
    if (chain === undefined) return queue.enableNotifications();
    this.#ranges.clear();
    const next = this.#reader.read(chain, this.#position, this.#ranges);
    this.#reclaim(this.#ranges);
    this.#position = next ?? 0;
    if (next === undefined) {
      this.#chain = undefined;
      queue.push(chain.head, 0);
      queue.flush();
    }
    return true;
  }

  #next(): Chain | undefined {
    this.#queue.disableNotifications();
    return this.#queue.pop();
  }
}
