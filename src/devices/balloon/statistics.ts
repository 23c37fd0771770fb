import { join64 } from '../../kvm/guest-memory.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import type { Segments } from '../../virtio/segments.ts';

/** Names of the tags (VIRTIO 1.2, 5.5.6.4; from 10 on 1.3 and Linux 6.12). Bytes where not said otherwise. */
const NAMES = [
  'swapIn',
  'swapOut',
  /** counts */
  'majorFaults',
  'minorFaults',
  'free',
  'total',
  'available',
  'caches',
  /** counts, of pages of the guest's huge page pool */
  'hugetlbAllocations',
  'hugetlbFailures',
  /** counts */
  'oomKills',
  'allocationStalls',
  /** pages, by the guest's reclaim in the background and on allocation */
  'asyncScans',
  'directScans',
  'asyncReclaims',
  'directReclaims',
] as const;

export type MemoryStatistic = (typeof NAMES)[number];

/** What a guest says of its memory; what it does not say is absent. Bytes, or counts since its boot. */
export type MemoryStatistics = Readonly<Partial<Record<MemoryStatistic, number>>>;

/** A 16-bit tag and a 64-bit value, packed. */
const ENTRY_SIZE = 10;
/** Entries of one buffer that are looked at. */
const ENTRY_LIMIT = 64;

/** Unknown tags are ignored, and values that no count of bytes has. */
export function parseStatistics(buffer: Segments): MemoryStatistics {
  const bytes = new Uint8Array(Math.min(buffer.byteLength, ENTRY_LIMIT * ENTRY_SIZE));
  buffer.read(0, bytes);
  const view = new DataView(bytes.buffer);
  const statistics: Partial<Record<MemoryStatistic, number>> = {};
  for (let at = 0; at + ENTRY_SIZE <= bytes.length; at += ENTRY_SIZE) {
    const name = NAMES[view.getUint16(at, true)];
    const value = join64(view.getUint32(at + 2, true), view.getUint32(at + 6, true));
    if (name !== undefined && Number.isSafeInteger(value)) statistics[name] = value;
  }
  return statistics;
}

/**
 * The statistics queue. It runs the other way round (5.5.6.3): the driver leaves a buffer with the device, and fills
 * a new one when it gets that back.
 */
export class StatisticsQueue {
  /** what the guest has said last, and when: milliseconds since 1970 */
  latest: { readonly time: number; readonly values: MemoryStatistics } | undefined;
  readonly #interval: number;
  #queue: Virtqueue | undefined;
  /** head of the buffer that the device has, or -1 while the driver has it */
  #held = -1;
  #paused = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #waiting = new Set<(values: MemoryStatistics | undefined) => void>();

  /** @param interval seconds between requests, 0 for none */
  constructor(interval: number) {
    this.#interval = interval;
  }

  activate(queue: Virtqueue | undefined): void {
    this.#queue = queue;
    if (queue === undefined || this.#interval === 0) return;
    this.#timer = setInterval(() => this.#ask(), 1000 * this.#interval).unref();
  }

  notified(): void {
    const queue = this.#queue;
    // A driver has one buffer (5.5.6.3.1); more of them wait until that one is back.
    if (queue === undefined || this.#paused || this.#held >= 0) return;
    const chain = queue.pop();
    queue.enableNotifications();
    if (chain === undefined) return;
    this.#held = chain.head;
    const values = parseStatistics(chain.readable);
    this.latest = { time: Date.now(), values };
    this.#answer(values);
  }

  /** Asks the driver; undefined where there is none, or no answer within `timeout` milliseconds. */
  request(timeout: number): Promise<MemoryStatistics | undefined> {
    if (this.#queue === undefined) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const done = (values: MemoryStatistics | undefined): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve(values);
      };
      const timer = setTimeout(() => done(undefined), timeout);
      this.#waiting.add(done);
      this.#ask();
    });
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    if (this.#waiting.size > 0) this.#ask();
  }

  end(): void {
    clearInterval(this.#timer);
    this.#queue = undefined;
    this.#held = -1;
    this.latest = undefined;
    this.#answer(undefined);
  }

  /** Gives the buffer back. Where the driver has it, it was asked already. */
  #ask(): void {
    if (this.#paused || this.#queue === undefined || this.#held < 0) return;
    this.#queue.push(this.#held, 0);
    this.#held = -1;
    this.#queue.flush();
    // one that waits in the ring although it should not
    this.notified();
  }

  #answer(values: MemoryStatistics | undefined): void {
    for (const done of [...this.#waiting]) done(values);
  }
}
