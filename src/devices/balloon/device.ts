import type { PageReclaim } from '../../kvm/guest-memory.ts';
import { KvmError } from '../../kvm/errors.ts';
import type { PageRanges } from '../../kvm/page-ranges.ts';
import { DeviceConfig } from '../../virtio/device-config.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features } from '../../virtio/features.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import { FreeRanges, PageNumbers } from './page-requests.ts';
import { BALLOON_F, PAGE, QUEUE, QUEUE_SIZES, reportingQueue } from './protocol.ts';
import { ReclaimQueue } from './reclaim-queue.ts';
import { checkBalloonState } from './state.ts';
import { StatisticsQueue, type MemoryStatistics } from './statistics.ts';

/** How long the event loop is held at once. */
const TURN_MS = 4;
const ANSWER_MS = 5000;

export type BalloonOptions = {
  readonly name: string;
  /** guest RAM in bytes */
  readonly memory: number;
  /** what the balloon is to hold from the start on, in bytes; default 0 */
  readonly size?: number;
  /** the guest may take memory back from it before it kills processes; default true */
  readonly deflateOnOom?: boolean;
  /** the guest tells of pages that it has freed, and the host takes them back; default true */
  readonly freePageReporting?: boolean;
  /** seconds between reports of the guest's memory use, 0 for none; default 0 */
  readonly statisticsInterval?: number;
  /** takes lines about memory that cannot be given back; default: they are dropped */
  readonly log?: (line: string) => void;
};

/** What an activation works on. */
type Live = {
  readonly inflate: ReclaimQueue | undefined;
  readonly deflate: Virtqueue | undefined;
  readonly report: ReclaimQueue | undefined;
  readonly numbers: PageNumbers;
  readonly activation: Activation;
};

/**
 * The traditional memory balloon (VIRTIO 1.2, 5.5): pages that the guest puts into it, and those that it reports as
 * free, go back to the host and are new ones at the guest's next touch.
 */
export class BalloonDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId = 5;
  readonly features: Features;
  readonly queueSizes = QUEUE_SIZES;
  readonly config = new DeviceConfig([
    { name: 'target', width: 4 },
    { name: 'actual', width: 4, writable: true },
    { name: 'hintCommand', width: 4 },
    { name: 'poison', width: 4, writable: true },
  ]);
  /** since the device was made */
  readonly counters = {
    /** pages put into the balloon */
    inflated: 0,
    /** page numbers that were no RAM */
    outsideRam: 0,
    /** bytes reported as free */
    reported: 0,
    /** bytes given back to the host, of both */
    reclaimed: 0,
    /** calls that the host refused */
    failures: 0,
  };
  readonly #memory: number;
  readonly #log: (line: string) => void;
  readonly #statistics: StatisticsQueue;
  #live: Live | undefined;
  #paused = false;
  #next: NodeJS.Immediate | undefined;
  #told = false;

  /** @throws RangeError for a size above the guest's memory */
  constructor(options: BalloonOptions) {
    const { name, memory, size = 0, deflateOnOom = true, freePageReporting = true } = options;
    this.name = name;
    this.#memory = memory;
    this.#log = options.log ?? (() => undefined);
    this.#statistics = new StatisticsQueue(options.statisticsInterval ?? 0);
    this.features = Features.of(
      BALLOON_F.mustTellHost,
      BALLOON_F.statistics,
      ...(deflateOnOom ? [BALLOON_F.deflateOnOom] : []),
      // Linux reports pages that it initialises when they are freed only where it can say to what.
      ...(freePageReporting ? [BALLOON_F.pagePoison, BALLOON_F.pageReporting] : []),
    );
    this.resize(size);
  }

  /** What the balloon is to hold, in bytes. */
  get target(): number {
    return this.config.get('target') * PAGE;
  }

  /** What it holds, in bytes, as the driver says. */
  get actual(): number {
    return Math.min(this.config.get('actual') * PAGE, this.#memory);
  }

  /** What the guest has said last of its memory, and when: milliseconds since 1970. */
  get latestStatistics(): { readonly time: number; readonly values: MemoryStatistics } | undefined {
    return this.#statistics.latest;
  }

  /**
   * Sets the target, in bytes, rounded down to pages; the guest follows as it can.
   * @throws RangeError above the guest's memory
   */
  resize(size: number): void {
    if (!(size >= 0 && size <= this.#memory)) {
      throw new RangeError(`a balloon of ${size} bytes in a guest of ${this.#memory}`);
    }
    this.config.set({ target: Math.floor(size / PAGE) });
  }

  /** Asks the guest; undefined where it has no driver, or does not answer within `timeout` milliseconds. */
  statistics(timeout = ANSWER_MS): Promise<MemoryStatistics | undefined> {
    return this.#statistics.request(timeout);
  }

  activate(activation: Activation): void {
    const { memory, features, queues } = activation;
    const { reclaim } = memory;
    this.#told = false;
    if (reclaim === undefined || reclaim.refusal !== undefined) {
      this.#tell(
        `what the guest gives up stays allocated: ${reclaim?.refusal ?? 'this memory has no way back'}`,
      );
    }
    const numbers = new PageNumbers(memory.ranges);
    const inflateQueue = queues[QUEUE.inflate];
    const report = reportingQueue(features, queues);
    const mayReclaim = this.#mayReclaimReported(features, reclaim);
    this.#live = {
      numbers,
      activation,
      inflate:
        inflateQueue &&
        new ReclaimQueue(inflateQueue, numbers, (ranges) => {
          this.counters.inflated += ranges.byteLength / PAGE;
          this.#discard(reclaim, ranges);
        }),
      deflate: queues[QUEUE.deflate],
      report:
        report &&
        new ReclaimQueue(report, new FreeRanges(), (ranges) => {
          this.counters.reported += ranges.byteLength;
          if (mayReclaim) this.#discard(reclaim, ranges);
        }),
    };
    this.#statistics.activate(features.has(BALLOON_F.statistics) ? queues[QUEUE.statistics] : undefined);
  }

  notified(index: number): void {
    if (this.#paused) return;
    if (index === QUEUE.deflate) this.#deflate();
    else {
      // a notification may be for the reporting queue, wherever that is
      if (index === QUEUE.statistics) this.#statistics.notified();
      this.#work();
    }
  }

  reset(): undefined {
    this.#stop();
    this.#statistics.end();
    this.#live = undefined;
    // The next driver has given nothing yet.
    this.config.set({ actual: 0, poison: 0 });
  }

  /** A request that was begun stays in flight. */
  pause(): Promise<void> {
    this.#paused = true;
    this.#stop();
    this.#statistics.pause();
    return Promise.resolve();
  }

  resume(): void {
    this.#paused = false;
    this.#statistics.resume();
  }

  save(): unknown {
    const { config } = this;
    return { target: config.get('target'), actual: config.get('actual'), poison: config.get('poison') };
  }

  restore(data: unknown): void {
    this.config.set(checkBalloonState(this.name, data, this.#memory / PAGE));
  }

  /**
   * A driver that negotiates PAGE_POISON expects to find reported pages as it left them: full of the value that it
   * has named (5.5.6.6.2).
   */
  #mayReclaimReported(features: Features, reclaim: PageReclaim | undefined): boolean {
    if (!features.has(BALLOON_F.pagePoison)) return true;
    return this.config.get('poison') === 0 && reclaim?.leaves === 'zeros';
  }

  #stop(): void {
    clearImmediate(this.#next);
    this.#next = undefined;
  }

  /** Nothing to do for them: a page out of the balloon comes with the guest's next touch. */
  #deflate(): void {
    const queue = this.#live?.deflate;
    queue?.drain(({ head }) => queue.push(head, 0));
  }

  /** Works on both queues in turn; goes on later where much is to be done. */
  #work(): void {
    const live = this.#live;
    if (live === undefined || this.#paused) return;
    const end = performance.now() + TURN_MS;
    for (;;) {
      const inflating = live.inflate?.step() ?? false;
      const reporting = live.report?.step() ?? false;
      this.counters.outsideRam += live.numbers.outsideRam;
      live.numbers.outsideRam = 0;
      if (!inflating && !reporting) return;
      if (performance.now() >= end) break;
    }
    this.#next ??= setImmediate(() => {
      this.#next = undefined;
      try {
        this.#work();
      } catch (error) {
        live.activation.needsReset(String(error));
      }
    });
  }

  #discard(reclaim: PageReclaim | undefined, ranges: PageRanges): void {
    if (reclaim === undefined || ranges.count === 0) return;
    try {
      this.counters.reclaimed += reclaim.discard(ranges);
    } catch (error) {
      if (!(error instanceof KvmError)) throw error;
      this.counters.failures++;
      this.#tell(
        `the host does not take memory back: ${error.message}${error.hint ? `; ${error.hint}` : ''}`,
      );
    }
  }

  /** Once per activation: the next request would say the same. */
  #tell(message: string): void {
    if (!this.#told) this.#log(`${this.name}: ${message}`);
    this.#told = true;
  }
}
