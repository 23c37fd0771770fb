/** A device with its queues in guarded memory and a driver for them, without a transport's registers. */
import type { PageReclaim } from '../../src/kvm/guest-memory.ts';
import type { VirtioDevice } from '../../src/virtio/device.ts';
import type { QueueLayout } from '../../src/virtio/queue-layout.ts';
import { VirtioCore } from '../../src/virtio/transport.ts';
import { ChainBuilder, type FuzzSegment } from './chain-builder.ts';
import { GuardedRam } from './guarded-ram.ts';
import { Random } from './random.ts';

/** RAM: eight pages, a hole, two pages. Rings of queues come first, then indirect tables and buffers. */
export const RAM = [
  { base: 0, size: 0x8000 },
  { base: 0xa000, size: 0x2000 },
] as const;
export const END = 0xc000;
const PAGE = 0x1000;
/** what the rings of one queue with its 16 entries lie in */
const RINGS = 0x400;
const TABLES = { base: 0x5000, size: PAGE } as const;
export const BUFFERS = { base: 0x6000, end: 0x8000 } as const;

const INDIRECT = 28;
const VERSION_1 = 1;
const DRIVER_OK = 0x0f;
const NEEDS_RESET = 0x40;

/** What devices were given so far, of every case: a chain is a request, a frame or a command. */
export const given = { chains: 0 };

const noise = new Random(2).fill(new Uint8Array(END));

/** A chain that the device has used. */
export type Used = { readonly head: number; readonly written: number; readonly chain: DrivenChain };
/** A chain as the driver made it, before anything was spoiled. */
export type DrivenChain = { readonly segments: readonly FuzzSegment[]; readonly faulty: boolean };

/** One queue from its driver's side. */
class DrivenQueue {
  readonly layout: QueueLayout;
  readonly builder: ChainBuilder;
  /** chains that the device has, by head */
  readonly outstanding = new Map<number, DrivenChain>();
  #collected = 0;
  #announced = 0;
  readonly #ram: GuardedRam;
  readonly #eventIdx: boolean;

  constructor(ram: GuardedRam, random: Random, index: number, size: number, eventIdx: boolean) {
    const base = index * RINGS;
    this.#ram = ram;
    this.#eventIdx = eventIdx;
    this.layout = { size, descriptors: base, driver: base + 0x200, device: base + 0x300 };
    ram.memory.fill(base, RINGS);
    this.builder = new ChainBuilder(ram.memory, this.layout, random, TABLES);
  }

  get usedIndex(): number {
    return this.#ram.memory.readU16(this.layout.device + 2);
  }

  /** Whether the device has all of it taken and given back. */
  get idle(): boolean {
    return this.usedIndex === this.builder.available;
  }

  /** Whether the device wants to hear of what was made available since it was last asked (2.7.7 and 2.7.10). */
  wantsNotification(): boolean {
    const { memory } = this.#ram;
    const { device, size } = this.layout;
    const before = this.#announced;
    const now = (this.#announced = this.builder.available);
    if (!this.#eventIdx) return (memory.readU16(device) & 1) === 0;
    const event = memory.readU16(device + 4 + 8 * size);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  /** Takes used chains back. @throws Error for one that the device did not have */
  collect(): Used[] {
    const { memory } = this.#ram;
    const { device, size } = this.layout;
    const used: Used[] = [];
    for (const index = this.usedIndex; this.#collected !== index;) {
      const at = device + 4 + 8 * (this.#collected % size);
      const head = memory.readU32(at);
      const chain = this.outstanding.get(head);
      if (chain === undefined) throw new Error(`the device has used ${head}, which it was not given`);
      this.outstanding.delete(head);
      this.builder.reclaim(head);
      this.#collected = (this.#collected + 1) & 0xffff;
      used.push({ head, written: memory.readU32(at + 4), chain });
    }
    return used;
  }
}

export class DeviceHarness {
  readonly ram: GuardedRam;
  core: VirtioCore;
  queues: (DrivenQueue | undefined)[] = [];
  /** something was done that a driver must not do: what becomes of requests is open */
  spoiled = false;
  /** lines that the transport has reported */
  readonly reports: string[] = [];
  readonly #random: Random;
  #deferred: (() => void)[] = [];
  #indirect = false;
  #slot = 0;
  #buffers: number = BUFFERS.base;

  constructor(random: Random, device: VirtioDevice, reclaim?: PageReclaim) {
    this.#random = random;
    this.ram = new GuardedRam(random, RAM, noise, reclaim);
    this.core = this.#plug(device);
  }

  /** A new core with another device, for what was saved. */
  replace(device: VirtioDevice): void {
    this.core = this.#plug(device);
  }

  /** From reset to DRIVER_OK with some of the device's features and these queues. */
  start(features: number, queues: readonly number[]): void {
    const random = this.#random;
    const { core } = this;
    void core.reset();
    this.#deferred = [];
    core.writeStatus(1);
    core.writeStatus(3);
    const ring = random.below(4);
    this.#indirect = (ring & 1) !== 0;
    core.driverFeatureSelect = 0;
    core.writeDriverFeatures((features | (ring << INDIRECT)) >>> 0);
    core.driverFeatureSelect = 1;
    core.writeDriverFeatures(VERSION_1);
    core.writeStatus(0x0b);
    this.queues = core.device.queueSizes.map((limit, index) => {
      if (!queues.includes(index)) return undefined;
      const size = Math.min(limit, 1 << random.between(1, 4));
      const queue = new DrivenQueue(this.ram, random, index, size, (ring & 2) !== 0);
      core.queueSelect = index;
      core.writeQueueSize(queue.layout.size);
      for (const part of ['descriptors', 'driver', 'device'] as const) {
        core.writeQueueAddress(part, 0, queue.layout[part]);
      }
      core.enableQueue();
      return queue;
    });
    core.writeStatus(DRIVER_OK);
    if (core.status !== DRIVER_OK) throw new Error('the device does not come up');
  }

  get failed(): boolean {
    return (this.core.status & NEEDS_RESET) !== 0;
  }

  /** Room for a buffer that no other request of the case has, or undefined where there is none left. */
  place(bytes: Uint8Array): number | undefined {
    const at = this.#buffers;
    if (at + bytes.length > BUFFERS.end) return undefined;
    this.ram.memory.write(at, bytes);
    this.#buffers += bytes.length;
    return at;
  }

  /**
   * Makes a request available, once in a while a broken one; false where the queue has no room for it.
   * @param slot one of 31 places for its indirect table, where requests may wait longer than 30 others take
   */
  add(
    index: number,
    segments: readonly FuzzSegment[],
    faulty = this.#random.oneIn(16),
    slot = this.#slot++,
  ): boolean {
    const queue = this.queues[index];
    // also in an indirect table a chain has no more descriptors than the queue (2.7.5.3.1)
    if (queue === undefined || segments.length === 0 || segments.length > queue.layout.size) return false;
    const head = queue.builder.add(segments, { indirect: this.#indirect, fault: faulty, slot });
    if (head === undefined) return false;
    given.chains++;
    if (faulty) this.spoiled = true;
    queue.outstanding.set(head, { segments, faulty });
    return true;
  }

  /**
   * Shows the device what is in the rings, and notifies it.
   * @param polite only where the device wants to hear of it
   */
  notify(index: number, polite = false): void {
    const queue = this.queues[index];
    const random = this.#random;
    if (queue !== undefined) {
      const { driver, size } = queue.layout;
      const { memory } = this.ram;
      if (random.oneIn(4)) memory.writeU16(driver, random.below(2));
      if (random.oneIn(4)) memory.writeU16(driver + 4 + 2 * size, queue.builder.available - random.below(3));
      queue.builder.publish();
      if (random.oneIn(256)) {
        this.spoiled = true;
        queue.builder.publish(queue.builder.available + random.pick([1, -1, size, size + 1, 0x8000]));
      }
      if (random.oneIn(256)) {
        this.spoiled = true;
        queue.builder.offer(random.pick([random.below(size), size, 0xffff]));
        queue.builder.publish();
      }
    }
    if (polite && queue?.wantsNotification() === false) return;
    this.core.notify(index);
  }

  /** Does what the device has put off; with `idle`, until that holds. @throws Error where it never does */
  async settle(idle: () => boolean = () => true): Promise<void> {
    for (let turn = 0; turn < 100; turn++) {
      while (this.#deferred.length > 0) this.#deferred.shift()!();
      if (this.failed || idle()) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
    throw new Error('the device does not come to rest');
  }

  /** Paused, saved, and restored into another device on the same memory; a ring that makes no sense is refused. */
  async move(device: VirtioDevice): Promise<void> {
    await this.core.pause();
    const state = JSON.parse(JSON.stringify(this.core.save())) as unknown;
    this.#deferred = [];
    this.replace(device);
    this.core.restore(state);
    this.core.resume();
  }

  #plug(device: VirtioDevice): VirtioCore {
    const nothing = (): void => undefined;
    return new VirtioCore({
      device,
      memory: this.ram.memory,
      resetBlocks: false,
      defer: (callback) => void this.#deferred.push(callback),
      report: (line) => void this.reports.push(line),
      hooks: {
        changed: nothing,
        queueInterrupt: nothing,
        configInterrupt: nothing,
        activated: nothing,
        deactivated: nothing,
        reset: nothing,
      },
    });
  }
}
