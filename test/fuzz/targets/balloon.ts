import { BalloonDevice } from '../../../src/devices/balloon/device.ts';
import type { PageReclaim } from '../../../src/kvm/guest-memory.ts';
import type { PageRanges } from '../../../src/kvm/page-ranges.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { DeviceHarness, END, RAM } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

const PAGE = 4096;
const MEMORY = RAM.reduce((sum, { size }) => sum + size, 0);
const F = { statistics: 1, pagePoison: 4, pageReporting: 5 } as const;
const QUEUE = { inflate: 0, deflate: 1, statistics: 2 } as const;
const STATISTICS = [
  'swapIn',
  'swapOut',
  'majorFaults',
  'minorFaults',
  'free',
  'total',
  'available',
  'caches',
];
const POISON = 12;

const isRam = (address: number, length: number): boolean =>
  RAM.some(({ base, size }) => address >= base && address + length <= base + size);

/** Remembers what is given back, by unit of 16 bytes. */
class Recorder implements PageReclaim {
  refusal: string | undefined;
  readonly leaves: 'zeros' | 'file';
  readonly given = new Uint8Array(END / 16);

  constructor(leaves: 'zeros' | 'file') {
    this.leaves = leaves;
  }

  discard(ranges: PageRanges): number {
    if (this.refusal !== undefined) return 0;
    for (let i = 0; i < ranges.count; i++) {
      const address = ranges.address(i);
      const length = ranges.length(i);
      if (!isRam(address, length))
        throw new Error(`pages are given back that are no RAM: ${address}, ${length}`);
      this.given.fill(1, Math.floor(address / 16), Math.ceil((address + length) / 16));
    }
    return ranges.byteLength;
  }
}

/** What the driver has said, and what the device is to make of it. */
class Case {
  readonly #random: Random;
  readonly #reclaim: Recorder;
  readonly #harness: DeviceHarness;
  #device: BalloonDevice;
  readonly #expected = new Uint8Array(END / 16);
  #reporting = -1;
  #poisoned = false;
  #mayReclaim = false;
  #statistics: Record<string, number> | undefined;

  constructor(random: Random) {
    this.#random = random;
    this.#reclaim = new Recorder(random.oneIn(4) ? 'file' : 'zeros');
    if (random.oneIn(32)) this.#reclaim.refusal = 'a test';
    this.#device = this.#newDevice();
    this.#harness = new DeviceHarness(random, this.#device, this.#reclaim);
  }

  async run(): Promise<void> {
    const random = this.#random;
    this.#start();
    for (let round = random.between(1, 4); round > 0; round--) {
      const used = new Set<number>();
      for (let i = random.between(1, 6); i > 0; i--) used.add(this.#request());
      if (random.oneIn(8)) this.#writeConfig();
      if (random.oneIn(8)) this.#device.resize(random.below(MEMORY + 1));
      const paused = random.oneIn(8);
      if (paused) await this.#harness.core.pause();
      for (const index of used) this.#harness.notify(index);
      if (random.oneIn(8) && !this.#harness.spoiled) await this.#move();
      else if (paused) this.#harness.core.resume();
      await this.#settle();
      if (this.#harness.spoiled) {
        if (!this.#harness.failed && random.oneIn(2)) break;
        this.#harness.spoiled = false;
        this.#reclaim.given.fill(0);
        this.#expected.fill(0);
        this.#start();
      } else this.#check();
    }
    void this.#harness.core.reset();
    if (this.#device.actual !== 0) throw new Error('pages are in the balloon after a reset');
  }

  #writeConfig(): void {
    const random = this.#random;
    const offset = random.below(POISON + 4);
    this.#device.config.driverWrite(offset, random.pick([1, 2, 4]), random.word());
    // not to be changed while the device is up (5.5.6.5.1)
    if (offset + 3 >= POISON) this.#harness.spoiled = true;
  }

  #newDevice(): BalloonDevice {
    return new BalloonDevice({ name: 'balloon0', memory: MEMORY });
  }

  #start(): void {
    const random = this.#random;
    let features = 0x37;
    if (random.oneIn(2)) features &= ~(1 << random.pick([0, 2, F.statistics, F.pagePoison, F.pageReporting]));
    const has = (bit: number): boolean => ((features >>> bit) & 1) === 1;
    const queues: number[] = [QUEUE.inflate, QUEUE.deflate];
    if (has(F.statistics)) queues.push(QUEUE.statistics);
    this.#reporting = !has(F.pageReporting) ? -1 : random.oneIn(2) ? 4 : queues.length;
    if (this.#reporting >= 0) queues.push(this.#reporting);
    void this.#harness.core.reset();
    const poison = random.oneIn(2) ? 0 : random.word();
    this.#device.config.driverWrite(POISON, 4, poison);
    // the harness resets once more, which does nothing to a device that is not up
    this.#harness.start(features, queues);
    this.#statistics = undefined;
    this.#poisoned = has(F.pagePoison);
    this.#latch();
  }

  /** What the driver expects of free pages counts from when the device is activated. */
  #latch(): void {
    const { config } = this.#device;
    this.#mayReclaim = !this.#poisoned || (config.get('poison') === 0 && this.#reclaim.leaves === 'zeros');
  }

  async #move(): Promise<void> {
    const before = this.#device;
    this.#device = this.#newDevice();
    const { target, actual } = before;
    await this.#harness.move(this.#device);
    if (this.#device.target !== target || this.#device.actual !== actual) {
      throw new Error('target or actual are not restored');
    }
    before.reset();
    this.#latch();
    // known from the buffer that the device has, where it has one
    if (!this.#harness.queues[QUEUE.statistics]?.outstanding.size) this.#statistics = undefined;
  }

  /** Makes one request available; returns the queue. */
  #request(): number {
    const random = this.#random;
    switch (random.below(4)) {
      case 0:
        return this.#inflate();
      case 1:
        this.#addBytes(QUEUE.deflate, this.#numbers());
        return QUEUE.deflate;
      case 2:
        return this.#report();
      default:
        return this.#supply();
    }
  }

  #numbers(): Uint8Array {
    const random = this.#random;
    const numbers = Uint32Array.from({ length: random.between(0, 24) }, () =>
      random.oneIn(4) ? random.pick([8, 9, 12, 0xffff_ffff, random.word()]) : random.below(14),
    );
    const bytes = new Uint8Array(numbers.buffer);
    return random.oneIn(8) ? bytes.subarray(0, Math.max(0, bytes.length - random.below(4))) : bytes;
  }

  /** Bytes to read, in pieces; whether there was room for them. */
  #addBytes(queue: number, bytes: Uint8Array): boolean {
    const at = this.#harness.place(bytes);
    if (at === undefined || bytes.length === 0) return false;
    const cut = this.#random.below(bytes.length);
    const pieces: FuzzSegment[] = [
      { address: at, length: cut, writable: false },
      { address: at + cut, length: bytes.length - cut, writable: false },
    ].filter(({ length }) => length > 0);
    return this.#harness.add(queue, pieces);
  }

  #inflate(): number {
    const bytes = this.#numbers();
    if (this.#addBytes(QUEUE.inflate, bytes)) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let at = 0; at + 4 <= bytes.length; at += 4) {
        const address = view.getUint32(at, true) * PAGE;
        if (isRam(address, PAGE)) this.#expect(address, PAGE);
      }
    }
    return QUEUE.inflate;
  }

  #report(): number {
    const random = this.#random;
    if (this.#reporting < 0) return QUEUE.inflate;
    const ranges = Array.from({ length: random.between(1, 5) }, (): FuzzSegment => {
      const { base, size } = random.pick(RAM);
      const address = base + 16 * random.below(size / 16);
      return { address, length: 16 * random.between(1, (base + size - address) / 16), writable: true };
    });
    if (this.#harness.add(this.#reporting, ranges) && this.#mayReclaim) {
      for (const { address, length } of ranges) this.#expect(address, length);
    }
    return this.#reporting;
  }

  #supply(): number {
    const random = this.#random;
    const queue = this.#harness.queues[QUEUE.statistics];
    // one buffer at a time, as a driver has it
    if (queue === undefined || this.#reporting === QUEUE.statistics || queue.outstanding.size > 0) {
      return QUEUE.inflate;
    }
    const bytes = new Uint8Array(10 * random.between(1, 8) + (random.oneIn(4) ? random.below(10) : 0));
    const view = new DataView(bytes.buffer);
    const said: Record<string, number> = {};
    for (let at = 0; at + 10 <= bytes.length; at += 10) {
      const tag = random.oneIn(4) ? random.between(16, 0xffff) : random.below(8);
      const high = random.oneIn(4) ? random.word() : random.below(0x10_0000);
      const low = random.word();
      view.setUint16(at, tag, true);
      view.setUint32(at + 2, low, true);
      view.setUint32(at + 6, high, true);
      const name = STATISTICS[tag];
      if (name !== undefined && high < 2 ** 21) said[name] = high * 2 ** 32 + low;
    }
    if (this.#addBytes(QUEUE.statistics, bytes)) this.#statistics = said;
    return QUEUE.statistics;
  }

  #expect(address: number, length: number): void {
    if (this.#reclaim.refusal === undefined) this.#expected.fill(1, address / 16, (address + length) / 16);
  }

  async #settle(): Promise<void> {
    const { queues } = this.#harness;
    if (this.#harness.spoiled) await this.#harness.settle();
    else {
      const isStatistics = (index: number): boolean =>
        index === QUEUE.statistics && this.#reporting !== QUEUE.statistics;
      await this.#harness.settle(() => queues.every((queue, i) => (queue?.idle ?? true) || isStatistics(i)));
    }
    this.#harness.ram.checkGuards();
  }

  #check(): void {
    if (Buffer.compare(this.#reclaim.given, this.#expected) !== 0) {
      const at = this.#reclaim.given.findIndex((each, i) => each !== this.#expected[i]);
      throw new Error(
        `the page of 0x${(16 * at).toString(16)} is ${this.#expected[at] === 1 ? 'not ' : ''}given back`,
      );
    }
    const statistics = this.#device.latestStatistics?.values;
    if (JSON.stringify(sorted(statistics)) !== JSON.stringify(sorted(this.#statistics))) {
      throw new Error(`statistics ${JSON.stringify(statistics)}, not ${JSON.stringify(this.#statistics)}`);
    }
    if (this.#statistics !== undefined && this.#random.oneIn(2)) void this.#device.statistics();
    for (const queue of this.#harness.queues) {
      for (const { written } of queue?.collect() ?? []) {
        if (written !== 0) throw new Error('the balloon says that it has written something');
      }
    }
  }
}

const sorted = (values: object | undefined): unknown =>
  values && Object.entries(values).sort(([a], [b]) => (a < b ? -1 : 1));

/** The balloon: the pages that whole requests name are given back, and no others; statistics are what was said. */
export const balloonTarget: FuzzTarget = {
  name: 'balloon',
  run: (random) => new Case(random).run(),
};
