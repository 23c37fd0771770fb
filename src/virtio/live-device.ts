import type { GuestMemory } from '../kvm/guest-memory.ts';
import { VIRTIO_F, type Features } from './features.ts';
import { layoutOf, type QueueSetup } from './queue-setup.ts';
import { Virtqueue, type QueueHost, type QueueProgress } from './queue.ts';
import type { Lifetime } from './segments.ts';

export type LiveOptions = {
  readonly memory: GuestMemory;
  readonly features: Features;
  readonly queues: readonly QueueSetup[];
  /** where restored queues go on, by index */
  readonly progress: readonly (QueueProgress | undefined)[];
  readonly host: Pick<QueueHost, 'interrupt' | 'broken'>;
  /** notifies the device of a queue */
  readonly notify: (index: number) => void;
  /** calls back later in the event loop */
  readonly defer: (callback: () => void) => void;
};

/** What stands from DRIVER_OK until the next reset: the queues, and whether they still count. */
export class LiveDevice {
  readonly queues: readonly (Virtqueue | undefined)[];
  readonly #lifetime: Lifetime = { ended: false };
  readonly #controller = new AbortController();
  readonly #deferred = new Set<number>();
  readonly #notify: (index: number) => void;
  readonly #defer: (callback: () => void) => void;

  constructor({ memory, features, queues, progress, host, notify, defer }: LiveOptions) {
    this.#notify = notify;
    this.#defer = defer;
    this.queues = queues.map((queue, index) => {
      if (!queue.ready) return undefined;
      const at = progress[index];
      return new Virtqueue({
        index,
        memory,
        layout: layoutOf(queue),
        indirect: features.has(VIRTIO_F.indirectDesc),
        eventIdx: features.has(VIRTIO_F.eventIdx),
        host: { ...host, again: (each) => this.notifyLater(each) },
        lifetime: this.#lifetime,
        ...(at && { progress: at }),
      });
    });
  }

  get ended(): boolean {
    return this.#lifetime.ended;
  }

  /** aborted at the end */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** From here on nothing of it reaches guest memory. */
  end(): void {
    this.#lifetime.ended = true;
    this.#controller.abort();
    this.#deferred.clear();
  }

  notifyLater(index: number): void {
    if (this.ended || this.#deferred.has(index)) return;
    this.#deferred.add(index);
    this.#defer(() => {
      if (this.#deferred.delete(index)) this.#notify(index);
    });
  }

  notifyAllLater(): void {
    for (const queue of this.queues) if (queue !== undefined) this.notifyLater(queue.index);
  }
}
