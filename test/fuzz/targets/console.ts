import { ConsoleDevice } from '../../../src/devices/console/device.ts';
import { checkConsoleState } from '../../../src/devices/console/state.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { ConsolePortModel } from '../console-model.ts';
import { BUFFERS, DeviceHarness, type Used } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

const EVENT = {
  deviceReady: 0,
  add: 1,
  remove: 2,
  ready: 3,
  console: 4,
  resize: 5,
  open: 6,
  name: 7,
} as const;
const CONTROL_RECEIVE = 2;
const CONTROL_TRANSMIT = 3;
const MULTIPORT = 1 << 1;
const HEADER = 8;
/** all of the longest message */
const CONTROL_ROOM = 80;
/** Each request that is not used yet has a place of its own for its buffers. */
const SLOTS = 31;
const SLOT_SIZE = Math.floor((BUFFERS.end - BUFFERS.base) / SLOTS);
/** RAM that nothing is written to, for requests of more than one piece */
const STILL = { base: 0xa000, size: 0x2000 } as const;
/** of messages that wait, a port */
const WAITING_LIMIT = 7;
const BROKEN_RING = /^c: needs a reset: queue \d+: /;

const receiveQueue = (port: number): number => (port === 0 ? 0 : 2 * port + 2);

class Case {
  readonly #random: Random;
  /** by the guest's id */
  readonly #ports: readonly ConsolePortModel[];
  readonly #harness: DeviceHarness;
  /** whether the driver does what it must not do, now and then, and notifies where nobody wants to hear of it */
  readonly #hostile: boolean;
  readonly #slots = new Map<readonly FuzzSegment[], number>();
  #free: number[] = [];
  #device: ConsoleDevice;
  #multiport = false;
  #deviceReady = false;
  /** the driver has missed messages by its own doing */
  #lossy = false;

  constructor(random: Random) {
    this.#random = random;
    this.#hostile = random.oneIn(3);
    const console = new ConsolePortModel(random, undefined);
    const none = new ConsolePortModel(random, undefined, false);
    const named = ['a', 'org.example.b'].map((name) => new ConsolePortModel(random, name));
    this.#ports = random.pick([[console], [console, ...named], [none, ...named]]);
    this.#device = this.#make();
    this.#harness = new DeviceHarness(random, this.#device);
  }

  async run(): Promise<void> {
    const random = this.#random;
    for (const port of this.#ports) if (port.name !== undefined) port.setHostOpen(!random.oneIn(4));
    await this.#start();
    for (let left = random.between(4, 24); left > 0; left--) {
      if (random.oneIn(16)) await this.#pause();
      else if (random.oneIn(24)) await this.#move();
      else if (random.oneIn(32)) await this.#start();
      else if (random.oneIn(3)) this.#host();
      else this.#driver();
      await this.#harness.settle();
      this.#check();
      if (!this.#harness.spoiled) continue;
      this.#harness.ram.checkGuards();
      if (!this.#harness.failed && random.oneIn(2)) return;
      await this.#start();
    }
    await this.#end();
    this.#harness.ram.checkGuards();
  }

  #make(): ConsoleDevice {
    const ports = this.#ports.filter(({ exists }) => exists).map(({ options }) => options);
    return new ConsoleDevice({ name: 'c', ports });
  }

  /** From reset to DRIVER_OK. */
  async #start(): Promise<void> {
    const random = this.#random;
    const { low } = this.#device.features;
    if (this.#harness.spoiled) for (const port of this.#ports) port.forget();
    this.#harness.spoiled = false;
    this.#harness.reports.length = 0;
    this.#multiport = (low & MULTIPORT) !== 0 && !random.oneIn(8);
    const queues = this.#device.queueSizes.map((_, index) => index).filter(() => !random.oneIn(64));
    this.#harness.start(this.#multiport ? low : low & ~MULTIPORT, queues);
    this.#slots.clear();
    this.#free = Array.from({ length: SLOTS }, (_, slot) => slot);
    this.#deviceReady = this.#lossy = false;
    this.#ports.forEach((port, id) => port.restart(!this.#multiport && id === 0));
    await this.#harness.settle();
    this.#check();
  }

  /** One thing that the host does. */
  #host(): void {
    const random = this.#random;
    const port = random.pick(this.#ports);
    if (random.oneIn(8)) {
      if (this.#ports[0]!.exists) this.#device.resize(random.between(1, 0xffff), random.between(1, 0xffff));
    } else if (random.oneIn(12) && port.name !== undefined) {
      if (port.present) {
        this.#device.unplug(port.name);
        port.unplugged();
      } else {
        port.present = true;
        this.#device.plug(port.name);
      }
    } else port.act();
  }

  /** What the host does while the vCPUs stand, and that nothing comes of it before they go on. */
  async #pause(): Promise<void> {
    await this.#harness.core.pause();
    for (let left = this.#random.between(1, 4); left > 0; left--) {
      this.#host();
      await this.#harness.settle();
    }
    if (this.#random.oneIn(4)) await this.#move();
    else this.#harness.core.resume();
  }

  /** To another process, where the host's ends may be others. */
  async #move(): Promise<void> {
    const random = this.#random;
    const state: unknown = JSON.parse(JSON.stringify(this.#device.save()));
    const { outbox } = checkConsoleState('c', state, this.#ports.length);
    if (outbox.length > WAITING_LIMIT * this.#ports.length) throw new Error('too many messages wait');
    this.#device = this.#make();
    for (const port of this.#ports) {
      if (port.exists)
        port.moved(port.name === undefined || (random.oneIn(4) ? !port.hostOpen : port.hostOpen));
    }
    await this.#harness.move(this.#device);
  }

  /** One thing that a driver does. */
  #driver(): void {
    const random = this.#random;
    const id = this.#multiport ? random.below(this.#ports.length) : 0;
    const what = random.below(this.#multiport ? 8 : 4);
    if (what < 2) this.#send(id);
    else if (what < 4) this.#give(receiveQueue(id), () => random.between(1, SLOT_SIZE));
    else if (what < 6) this.#control();
    else {
      this.#give(CONTROL_RECEIVE, () => {
        if (!random.oneIn(64)) return CONTROL_ROOM;
        this.#lossy = true;
        return random.between(1, HEADER);
      });
    }
  }

  /** Output of the guest, a few requests. */
  #send(id: number): void {
    const random = this.#random;
    const port = this.#ports[id]!;
    const queue = receiveQueue(id) + 1;
    for (let left = random.between(1, 3); left > 0; left--) {
      if (random.oneIn(12)) {
        const piece = { address: STILL.base, length: STILL.size, writable: false };
        const segments = Array<FuzzSegment>(random.between(5, 8)).fill(piece);
        const still = this.#harness.ram.memory.read(STILL.base, STILL.size);
        if (this.#add(queue, segments)) port.sent(Buffer.concat(segments.map(() => still)));
      } else {
        const bytes = random.fill(new Uint8Array(random.between(1, SLOT_SIZE)));
        if (this.#place(queue, bytes)) port.sent(bytes);
      }
    }
    this.#notify(queue);
  }

  /** A message to the device. */
  #control(): void {
    const random = this.#random;
    const id = random.oneIn(16)
      ? random.pick([this.#ports.length, 0xffff_ffff])
      : random.below(this.#ports.length);
    const event = random.oneIn(16)
      ? random.below(10)
      : random.pick([EVENT.deviceReady, EVENT.ready, EVENT.ready, EVENT.open, EVENT.open]);
    const value = random.oneIn(6) ? 0 : random.between(1, 2);
    const length = random.oneIn(16) ? random.between(1, 20) : HEADER;
    const bytes = new Uint8Array(Math.max(length, HEADER));
    const view = new DataView(bytes.buffer);
    view.setUint32(0, id, true);
    view.setUint16(4, event, true);
    view.setUint16(6, value, true);
    const sent = this.#place(CONTROL_TRANSMIT, bytes.subarray(0, length));
    this.#notify(CONTROL_TRANSMIT);
    if (!sent || length < HEADER) return;
    if (event === EVENT.deviceReady) {
      this.#deviceReady = value !== 0;
      if (value === 0) this.#lossy = true;
    } else if (event === EVENT.ready) this.#ports[id]?.setUp(this.#deviceReady && value !== 0);
    else if (event === EVENT.open) this.#ports[id]?.programOpened(value !== 0);
  }

  /** Requests with room for the device to write to. */
  #give(queue: number, size: () => number): void {
    for (let left = this.#random.between(1, 4); left > 0; left--) {
      const slot = this.#free[0];
      if (slot !== undefined) this.#add(queue, this.#split(slot, size(), true));
    }
    this.#notify(queue);
  }

  /** A request with these bytes for the device. */
  #place(queue: number, bytes: Uint8Array): boolean {
    const slot = this.#free[0];
    if (slot === undefined) return false;
    this.#harness.ram.memory.write(BUFFERS.base + slot * SLOT_SIZE, bytes);
    return this.#add(queue, this.#split(slot, bytes.length, false));
  }

  /** A slot's first bytes in one to four pieces. */
  #split(slot: number, length: number, writable: boolean): FuzzSegment[] {
    const segments: FuzzSegment[] = [];
    for (let at = 0; at < length;) {
      const size = segments.length === 3 ? length - at : this.#random.between(1, length - at);
      segments.push({ address: BUFFERS.base + slot * SLOT_SIZE + at, length: size, writable });
      at += size;
    }
    return segments;
  }

  #add(queue: number, segments: readonly FuzzSegment[]): boolean {
    const slot = this.#free[0];
    if (slot === undefined) return false;
    const faulty = this.#hostile && this.#random.oneIn(16);
    if (!this.#harness.add(queue, segments, faulty, slot)) return false;
    this.#free.shift();
    this.#slots.set(segments, slot);
    return true;
  }

  #notify(queue: number): void {
    this.#harness.notify(queue, !this.#hostile);
  }

  /** What must hold whenever nothing is left to be done. */
  #check(): void {
    const harness = this.#harness;
    const fault = harness.reports.find((line) => !harness.spoiled || !BROKEN_RING.test(line));
    if (fault !== undefined) throw new Error(fault);
    if (harness.spoiled) return;
    if (harness.failed) throw new Error('the device needs a reset');
    this.#ports.forEach((port, id) => {
      if (port.guest && port.guest.guestOpen !== port.guestOpen) throw new Error('a port is open, or is not');
      if (id > 0 && !this.#multiport) return;
      const receive = receiveQueue(id);
      const read = this.#collect(receive).map((used) => this.#written(used));
      port.checkInput(Buffer.concat(read), this.#waiting(receive));
      this.#collect(receive + 1);
      port.checkOutput(this.#waiting(receive + 1));
    });
    if (!this.#multiport) return;
    for (const used of this.#collect(CONTROL_RECEIVE)) this.#hear(this.#written(used));
    this.#collect(CONTROL_TRANSMIT);
    if (this.#waiting(CONTROL_TRANSMIT) > 0) throw new Error('control messages are left lying');
  }

  /** A message of the device. */
  #hear(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const port = this.#ports[view.getUint32(0, true)];
    const event = view.getUint16(4, true);
    const value = view.getUint16(6, true);
    const rest = bytes.subarray(HEADER);
    if (port?.exists !== true) throw new Error('a message about a port that is not there');
    if (event === EVENT.open) port.told = value === 1;
    const { config } = this.#device;
    const expected =
      event === EVENT.name
        ? Buffer.from(port.name ?? '')
        : event === EVENT.resize
          ? Buffer.from(Uint16Array.of(config.get('cols'), config.get('rows')).buffer)
          : Buffer.alloc(0);
    if (Buffer.compare(rest, expected) !== 0) throw new Error(`event ${event} with the wrong payload`);
    if (event === EVENT.deviceReady || event === EVENT.ready || event > EVENT.name)
      throw new Error(`event ${event} of the device`);
  }

  /** With enough buffers the driver knows all of the host's ends in the end. */
  async #end(): Promise<void> {
    if (!this.#multiport) return;
    for (let turn = 0; turn < 3 * SLOTS; turn++) {
      const before = this.#harness.queues[CONTROL_RECEIVE]?.usedIndex;
      const slot = this.#free[0];
      if (slot === undefined) break;
      this.#add(CONTROL_RECEIVE, this.#split(slot, CONTROL_ROOM, true));
      this.#notify(CONTROL_RECEIVE);
      await this.#harness.settle();
      this.#check();
      if (this.#harness.spoiled) return;
      if (this.#harness.queues[CONTROL_RECEIVE]?.usedIndex === before) break;
    }
    if (this.#lossy || this.#waiting(CONTROL_RECEIVE) === 0) return;
    for (const port of this.#ports) {
      if (port.introduced && port.told !== port.hostOpen)
        throw new Error('the guest was told something else');
    }
  }

  /** Takes what the device has used of a queue, and frees its places. */
  #collect(queue: number): Used[] {
    const used = this.#harness.queues[queue]?.collect() ?? [];
    for (const { chain } of used) {
      const slot = this.#slots.get(chain.segments);
      this.#slots.delete(chain.segments);
      if (slot !== undefined) this.#free.push(slot);
    }
    return used;
  }

  #waiting(queue: number): number {
    return this.#harness.queues[queue]?.outstanding.size ?? 0;
  }

  /** What the device has written into a request. */
  #written({ written, chain }: Used): Uint8Array {
    const pieces: Uint8Array[] = [];
    let left = written;
    for (const { address, length } of chain.segments) {
      const size = Math.min(left, length);
      pieces.push(this.#harness.ram.memory.read(address, size));
      left -= size;
    }
    if (left > 0) throw new Error(`${written} bytes are said to be written where there is no room for them`);
    return Buffer.concat(pieces);
  }
}

/** The virtio console: bytes, states and messages between a guest and hosts that come, go and stall. */
export const consoleTarget: FuzzTarget = { name: 'console', run: (random) => new Case(random).run() };
