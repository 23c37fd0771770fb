import type { GuestMemory } from '../kvm/guest-memory.ts';
import { Chain, type ChainFault } from './chain.ts';
import { ChainWalker } from './chain-walker.ts';
import { GuestWords16, GuestWords32 } from './guest-words.ts';
import type { QueueLayout } from './queue-layout.ts';
import type { Lifetime } from './segments.ts';

/** Words of the rings (VIRTIO 1.2, 2.7.6 and 2.7.8). */
const FLAGS = 0;
const INDEX = 1;
const RING = 2;
/** available ring's flag: the driver wants no interrupts */
const NO_INTERRUPT = 1;
/** used ring's flag: the device wants no notifications */
const NO_NOTIFY = 1;

/** What a queue tells the transport. */
export type QueueHost = {
  /** Used entries are published and the driver wants to hear of it. */
  interrupt(index: number): void;
  /** The ring makes no sense any more; the queue takes and gives nothing from here on. */
  broken(index: number, reason: string): void;
  /** Notify the device of this queue once more, later in the event loop. */
  again(index: number): void;
};

/** Where a queue stands, plain data. */
export type QueueProgress = {
  /** free-running 16-bit index of the next available entry to take */
  readonly available: number;
  /** of the next used entry to give */
  readonly used: number;
  /** heads of the chains that the device holds */
  readonly inFlight: readonly number[];
};

export type QueueOptions = {
  readonly index: number;
  readonly memory: GuestMemory;
  /** checked, see layoutFault() */
  readonly layout: QueueLayout;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly host: QueueHost;
  readonly lifetime: Lifetime;
  /** goes on where a saved queue stood; chains in flight are popped once more */
  readonly progress?: QueueProgress;
};

/**
 * The device's side of a split virtqueue (VIRTIO 1.2, 2.7), for one activation. Devices take requests with
 * {@link pop}, complete them with {@link push} in any order, and make a batch visible with {@link flush}.
 */
export class Virtqueue {
  readonly index: number;
  /** entries */
  readonly size: number;
  /** chains refused so far, by what was wrong with them */
  readonly faults = new Map<ChainFault, number>();
  readonly #memory: GuestMemory;
  readonly #walker: ChainWalker;
  readonly #available: GuestWords16;
  readonly #used: GuestWords16;
  readonly #usedElements: GuestWords32;
  readonly #host: QueueHost;
  readonly #lifetime: Lifetime;
  readonly #eventIdx: boolean;
  readonly #mask: number;
  readonly #chains: (Chain | undefined)[];
  #replay: number[];
  #inFlight = 0;
  /** next available entry, and the driver's index as it was last seen */
  #next: number;
  #seen: number;
  /** next used entry, and the index as it was last published */
  #given: number;
  #published: number;
  #refused = false;

  constructor(options: QueueOptions) {
    const { memory, layout, progress } = options;
    const { size } = layout;
    this.index = options.index;
    this.size = size;
    this.#memory = memory;
    this.#walker = new ChainWalker(memory, layout.descriptors, size, options.indirect);
    this.#available = new GuestWords16(memory, layout.driver, 3 + size);
    this.#used = new GuestWords16(memory, layout.device, 3 + 4 * size);
    this.#usedElements = new GuestWords32(memory, layout.device, 1 + 2 * size);
    this.#host = options.host;
    this.#lifetime = options.lifetime;
    this.#eventIdx = options.eventIdx;
    this.#mask = size - 1;
    this.#chains = Array<Chain | undefined>(size).fill(undefined);
    this.#next = this.#seen = progress?.available ?? 0;
    this.#given = this.#published = progress?.used ?? 0;
    this.#replay = [...(progress?.inFlight ?? [])].reverse();
  }

  /** chains that the device holds */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** The device was reset or has failed: nothing is taken or given any more. */
  get ended(): boolean {
    return this.#lifetime.ended;
  }

  /**
   * Takes the next request, or undefined where none is there. A chain that breaks the rules is completed with
   * length 0 at once and the device does not see it; a ring that does ends in DEVICE_NEEDS_RESET.
   */
  pop(): Chain | undefined {
    if (this.#lifetime.ended) return undefined;
    for (let refused = 0; refused < this.size; refused++) {
      const head = this.#nextHead();
      if (head < 0) break;
      const chain = (this.#chains[head] ??= new Chain(this.#memory, this.#lifetime, head));
      if (chain.inFlight) {
        this.#break(`descriptor ${head} is made available twice`);
        return undefined;
      }
      const fault = this.#walker.walk(chain);
      if (fault === undefined) {
        chain.inFlight = true;
        this.#inFlight++;
        return chain;
      }
      this.faults.set(fault, (this.faults.get(fault) ?? 0) + 1);
      this.#give(head, 0);
      this.#refused = true;
    }
    if (this.#refused) {
      this.flush();
      // A driver that makes bad chains without end must not hold the event loop.
      if (this.#next !== this.#seen) this.#host.again(this.index);
    }
    return undefined;
  }

  /** A request in flight, for those who kept its head. */
  chain(head: number): Chain | undefined {
    const chain = this.#chains[head];
    return chain?.inFlight === true ? chain : undefined;
  }

  /**
   * Completes a request. The driver sees it after the next {@link flush}.
   * @param written bytes of the writable part that are filled, from its start on
   * @throws RangeError where it is not in flight, or more was written than there is: a bug of the device
   */
  push(head: number, written: number): void {
    if (this.#lifetime.ended) return;
    const chain = this.#chains[head];
    if (chain?.inFlight !== true) throw new RangeError(`queue ${this.index}: ${head} is not in flight`);
    if (written > chain.writable.byteLength) {
      throw new RangeError(`queue ${this.index}: ${written} bytes written of ${chain.writable.byteLength}`);
    }
    chain.inFlight = false;
    this.#inFlight--;
    this.#give(head, written);
  }

  /** Publishes what was completed, with an interrupt where the driver wants one (2.7.7 and 2.7.10). */
  flush(): void {
    const before = this.#published;
    const now = this.#given;
    if (this.#lifetime.ended || before === now) return;
    this.#refused = false;
    this.#published = now;
    this.#used.publish(INDEX, now);
    if (this.#eventIdx) {
      const usedEvent = this.#available.get(RING + this.size);
      if (((now - usedEvent - 1) & 0xffff) >= ((now - before) & 0xffff)) return;
    } else if ((this.#available.get(FLAGS) & NO_INTERRUPT) !== 0) return;
    this.#host.interrupt(this.index);
  }

  /** Tells the driver that notifications are of no use now; it may send some all the same. */
  disableNotifications(): void {
    // With EVENT_IDX the event index stays behind, which is as good.
    if (!this.#eventIdx && !this.#lifetime.ended) this.#used.publish(FLAGS, NO_NOTIFY);
  }

  /**
   * Asks for a notification of the next request. Returns true where one has come in the meantime, which the
   * driver may not have notified: then serve the queue once more (2.7.10.1).
   */
  enableNotifications(): boolean {
    if (this.#lifetime.ended) return false;
    if (this.#eventIdx) this.#used.publish(RING + 4 * this.size, this.#next);
    else this.#used.publish(FLAGS, 0);
    return this.#available.load(INDEX) !== this.#next;
  }

  /**
   * Gives `serve` every request there is, with notifications off meanwhile, and flushes. A driver that adds
   * requests faster than they are served gets its turn again later, after other work of the event loop.
   */
  drain(serve: (chain: Chain) => void): void {
    let left = 2 * this.size;
    this.disableNotifications();
    do {
      for (let chain = this.pop(); chain !== undefined; chain = this.pop()) {
        serve(chain);
        if (--left > 0) continue;
        this.flush();
        this.#host.again(this.index);
        return;
      }
      this.flush();
      if (!this.enableNotifications()) return;
    } while (--left > 0);
    this.#host.again(this.index);
  }

  /** Where the queue stands; all that was completed is published first. */
  save(): QueueProgress {
    this.flush();
    const inFlight = this.#chains.flatMap((chain) => (chain?.inFlight === true ? [chain.head] : []));
    return {
      available: this.#next,
      used: this.#given,
      inFlight: [...this.#replay.toReversed(), ...inFlight],
    };
  }

  /** The next head to walk, or -1 where there is none. */
  #nextHead(): number {
    const again = this.#replay.pop();
    if (again !== undefined) return again;
    if (this.#next === this.#seen) {
      const seen = this.#available.load(INDEX);
      if (seen === this.#next) return -1;
      const waiting = (seen - this.#next) & 0xffff;
      // The driver has at most as many descriptors outstanding as there are (2.7.6).
      if (waiting > this.size) {
        this.#break(`${waiting} requests in a ring of ${this.size}`);
        return -1;
      }
      this.#seen = seen;
    }
    const head = this.#available.get(RING + (this.#next & this.#mask));
    if (head >= this.size) {
      this.#break(`descriptor ${head} in a table of ${this.size}`);
      return -1;
    }
    this.#next = (this.#next + 1) & 0xffff;
    return head;
  }

  #give(head: number, written: number): void {
    const at = 1 + 2 * (this.#given & this.#mask);
    this.#usedElements.set(at, head);
    this.#usedElements.set(at + 1, written);
    this.#given = (this.#given + 1) & 0xffff;
  }

  #break(reason: string): void {
    this.#lifetime.ended = true;
    this.#host.broken(this.index, reason);
  }
}

/**
 * What is wrong with the saved progress of a queue, or undefined: every request taken is either used or in flight,
 * and the driver's ring is where that progress can have left it.
 */
export function progressFault(
  progress: QueueProgress,
  layout: QueueLayout,
  memory: GuestMemory,
): string | undefined {
  const { available, used, inFlight } = progress;
  if (new Set(inFlight).size !== inFlight.length || inFlight.some((head) => head >= layout.size)) {
    return 'chains in flight that cannot be';
  }
  if (((available - used) & 0xffff) !== inFlight.length)
    return 'indices that do not match the chains in flight';
  const waiting = (memory.readU16(layout.driver + 2) - available) & 0xffff;
  if (waiting > layout.size) return 'an available index that the ring in memory does not match';
  return undefined;
}
