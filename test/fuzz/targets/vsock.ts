import { VsockDevice } from '../../../src/devices/vsock/device.ts';
import { decode, encode, HEADER, HOST, OP, STREAM, type Packet } from '../../support/virtio/vsock.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { BUFFERS, DeviceHarness, type Used } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';
import { HostModel, SocketModel, type ProgramModel } from '../vsock-model.ts';

const CID = 5;
const RECEIVE = 0;
const TRANSMIT = 1;
const EVENT = 2;
const FEATURES = 1;
const SHUTDOWN = { receive: 1, send: 2, both: 3 } as const;
const MAX_ROOM = 256 * 1024;
/** A guest is told of more room before it has less than this. */
const LOW_ROOM = 64 * 1024;
/** in which everything that was sent has arrived */
const TURN_LIMIT = 1000;
/** Where nothing has happened for so many, nothing will: now and then a turn has no buffer for the device. */
const QUIET_TURNS = 16;
/** Each request that is not used yet has a place of its own for its buffers. */
const SLOTS = 31;
const SLOT_SIZE = Math.floor((BUFFERS.end - BUFFERS.base) / SLOTS);
/** RAM that nothing is written to, for payloads that are longer */
const STILL = { base: 0xa000, size: 0x2000 } as const;
const BROKEN_RING = /^v: needs a reset: queue \d+: /;

type Fields = Omit<Packet, 'payload'>;

class Case {
  readonly #random: Random;
  readonly #harness: DeviceHarness;
  readonly #host: HostModel;
  /** whether the driver does what it must not do, now and then */
  readonly #hostile: boolean;
  readonly #slots = new Map<readonly FuzzSegment[], number>();
  readonly #later: (() => void)[] = [];
  #free: number[] = [];
  #device: VsockDevice;
  #sockets: SocketModel[] = [];
  #nextPort = 1000;
  #unanswered: { readonly socket: SocketModel; readonly accepts: boolean }[] = [];
  /** the driver is to be told that its connections are gone */
  #resetDue = false;
  /** programs whose connections have to end, as the guest has sent more than there is room for */
  #overrun: ProgramModel[] = [];

  constructor(random: Random) {
    this.#random = random;
    this.#hostile = random.oneIn(2);
    this.#host = new HostModel(random);
    this.#device = this.#make();
    this.#harness = new DeviceHarness(random, this.#device);
  }

  async run(): Promise<void> {
    const random = this.#random;
    try {
      await this.#start();
      for (let left = random.between(6, 40); left > 0; left--) {
        if (random.oneIn(32)) await this.#pause();
        else if (random.oneIn(48)) await this.#move();
        else if (random.oneIn(48)) await this.#start();
        else if (this.#hostile && random.oneIn(24)) await this.#flood();
        else if (random.oneIn(2)) this.#hostActs();
        else this.#driver();
        await this.#settle();
        this.#check();
        if (!this.#harness.spoiled) continue;
        this.#harness.ram.checkGuards();
        if (!this.#harness.failed && random.oneIn(2)) return;
        await this.#start();
      }
      await this.#end();
      this.#harness.ram.checkGuards();
    } finally {
      // its clock
      this.#device.reset();
    }
  }

  #make(): VsockDevice {
    return new VsockDevice({
      name: 'v',
      cid: CID,
      backend: this.#host,
      defer: (callback) => void this.#later.push(callback),
    });
  }

  /** From reset to DRIVER_OK. */
  async #start(): Promise<void> {
    this.#forget();
    this.#resetDue = false;
    this.#harness.spoiled = false;
    this.#harness.reports.length = 0;
    const queues = this.#device.queueSizes.map((_, index) => index).filter(() => !this.#random.oneIn(128));
    this.#harness.start(FEATURES, queues);
    this.#slots.clear();
    this.#free = Array.from({ length: SLOTS }, (_, slot) => slot);
    await this.#settle();
    this.#check();
  }

  /** The guest does not know of its connections any more. */
  #forget(): void {
    this.#sockets = [];
    this.#unanswered = [];
    this.#overrun = [];
  }

  #hostActs(): void {
    const random = this.#random;
    const programs = this.#host.programs;
    if (programs.length < 6 && random.oneIn(6)) this.#host.open(random.between(1, 3));
    else if (programs.length > 0) random.pick(programs).act();
  }

  /** What the host does while the vCPUs stand, and that nothing comes of it before they go on. */
  async #pause(): Promise<void> {
    await this.#harness.core.pause();
    for (let left = this.#random.between(1, 4); left > 0; left--) {
      this.#hostActs();
      await this.#settle();
    }
    if (this.#random.oneIn(3)) await this.#move();
    else this.#harness.core.resume();
  }

  /** To another process, which knows nothing of the connections. */
  async #move(): Promise<void> {
    const old = this.#device;
    this.#later.length = 0;
    this.#device = this.#make();
    await this.#harness.move(this.#device);
    old.reset();
    this.#host.programs = [];
    this.#forget();
    this.#resetDue = true;
    await this.#settle();
  }

  /** One thing that a driver does. */
  #driver(): void {
    const random = this.#random;
    const what = random.below(10);
    if (what < 3)
      this.#give(RECEIVE, random.oneIn(32) && this.#hostile ? random.between(1, HEADER) : SLOT_SIZE);
    else if (what === 3) this.#give(EVENT, 8);
    else if (what === 4 && this.#sockets.length < 6) this.#connect();
    else if (this.#hostile && random.oneIn(6)) this.#forge();
    else if (this.#sockets.length > 0) this.#act(random.pick(this.#sockets));
  }

  #connect(): void {
    const random = this.#random;
    const socket = new SocketModel(this.#nextPort++, random.between(50, 52), this.#bufferSize());
    if (this.#send(socket, OP.request)) this.#sockets.push(socket);
  }

  #bufferSize(): number {
    return this.#random.pick([100, 1000, 65536, 0xffff_ffff]);
  }

  /** One thing that a socket of the guest does, all of it allowed. */
  #act(socket: SocketModel): void {
    const random = this.#random;
    if (socket.state !== 'open') return;
    const what = random.below(12);
    if (what < 5) this.#sendData(socket);
    else if (what < 8) this.#read(socket);
    else if (what === 8) this.#send(socket, OP.creditRequest);
    else if (what === 9) this.#shutDown(socket, random.between(1, 3));
    else if (what === 10 && random.oneIn(4)) this.#abort(socket);
  }

  #sendData(socket: SocketModel): void {
    const random = this.#random;
    if ((socket.shutdown & SHUTDOWN.send) !== 0 || (socket.heardShutdown & SHUTDOWN.receive) !== 0) return;
    if (random.oneIn(8)) {
      this.#sendStill(socket);
      return;
    }
    const length = Math.min(socket.credit, random.between(1, SLOT_SIZE - HEADER));
    if (length > 0) this.#send(socket, OP.data, random.fill(new Uint8Array(length)));
  }

  /** Much data at once; a hostile guest does not ask whether there is room. */
  #sendStill(socket: SocketModel): void {
    const { ram } = this.#harness;
    const pieces = this.#random.between(4, 7);
    const length = pieces * STILL.size;
    if (length > socket.credit && !this.#hostile) return;
    const program = this.#host.find(socket.hostPort, socket.guestPort);
    const isTooMuch = program !== undefined && socket.sent.length + length - program.taken > socket.room;
    const segments = Array<FuzzSegment>(pieces).fill({
      address: STILL.base,
      length: STILL.size,
      writable: false,
    });
    const bytes = encode(this.#fields(socket, OP.data, length));
    if (!this.#place(bytes, segments)) return;
    const still = ram.memory.read(STILL.base, STILL.size);
    socket.sent = Buffer.concat([socket.sent, ...segments.map(() => still)]);
    if (!isTooMuch || socket.spoiled) return;
    socket.spoiled = true;
    this.#overrun.push(program);
  }

  /** Sends more than there is room for to a program that takes nothing meanwhile. */
  async #flood(): Promise<void> {
    const socket = this.#sockets.find(({ state, shutdown }) => state === 'open' && shutdown === 0);
    for (let left = 8; left > 0 && socket?.state === 'open' && !this.#harness.spoiled; left--) {
      this.#sendStill(socket);
      await this.#settle();
      this.#check();
    }
  }

  /** Takes data out of its room. */
  #read(socket: SocketModel): void {
    const random = this.#random;
    socket.forwarded += random.oneIn(4) ? 0 : random.between(0, socket.received - socket.forwarded);
    this.#send(socket, OP.creditUpdate);
  }

  #shutDown(socket: SocketModel, flags: number): void {
    if (this.#send(socket, OP.shutdown, undefined, { flags })) socket.shutdown |= flags;
  }

  #abort(socket: SocketModel): void {
    if (!this.#send(socket, OP.reset)) return;
    socket.spoiled = true;
    socket.state = 'over';
  }

  /** A packet that makes no sense, or comes when it must not. */
  #forge(): void {
    const random = this.#random;
    const socket = this.#sockets.length > 0 && !random.oneIn(4) ? random.pick(this.#sockets) : undefined;
    const payload = random.fill(new Uint8Array(random.oneIn(2) ? 0 : random.between(1, 100)));
    const from = socket ?? new SocketModel(random.between(1, 3), random.between(50, 52), this.#bufferSize());
    const fields = this.#fields(from, random.between(0, 9), payload.length);
    const number = (): number =>
      random.pick([0, 1, 2, CID, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, random.word()]);
    const wrong: Partial<Record<keyof Fields, number>> = {};
    for (let left = random.below(3); left > 0; left--) {
      const key = random.pick(Object.keys(fields) as (keyof Fields)[]);
      wrong[key] = key === 'type' || key === 'op' ? random.below(10) : number();
      if (key.endsWith('Cid') && random.oneIn(4)) wrong[key] = number() * 2 ** 20 + number();
    }
    const bytes = encode({ ...fields, ...wrong }, payload);
    if (!this.#place(random.oneIn(16) ? bytes.subarray(0, random.between(1, bytes.length)) : bytes)) return;
    // It may have met any connection of these ports.
    for (const each of this.#sockets) {
      const isMet =
        each.guestPort === (wrong.sourcePort ?? from.guestPort) &&
        each.hostPort === (wrong.targetPort ?? from.hostPort);
      if (isMet || each === socket) each.spoiled = true;
    }
  }

  #fields(socket: SocketModel, op: number, length: number): Fields {
    return {
      ...{ sourceCid: CID, targetCid: HOST, sourcePort: socket.guestPort, targetPort: socket.hostPort },
      ...{ length, type: STREAM, op, flags: 0, bufferSize: socket.bufferSize },
      forwarded: socket.forwarded % 2 ** 32,
    };
  }

  #send(socket: SocketModel, op: number, payload?: Uint8Array, fields: Partial<Fields> = {}): boolean {
    const all = { ...this.#fields(socket, op, payload?.length ?? 0), ...fields };
    if (!this.#place(encode(all, payload))) return false;
    socket.told = socket.forwarded;
    if (payload !== undefined) socket.sent = Buffer.concat([socket.sent, payload]);
    return true;
  }

  /** A packet for the device; `more` lies elsewhere. */
  #place(bytes: Uint8Array, more: readonly FuzzSegment[] = []): boolean {
    const slot = this.#free[0];
    if (slot === undefined) return false;
    this.#harness.ram.memory.write(BUFFERS.base + slot * SLOT_SIZE, bytes);
    const segments =
      more.length > 0 ? [segmentOf(slot, bytes.length)] : this.#split(slot, bytes.length, false);
    const isPlaced = this.#add(TRANSMIT, [...segments, ...more]);
    this.#harness.notify(TRANSMIT, !this.#hostile);
    return isPlaced;
  }

  /** Requests with room for the device to write to. */
  #give(queue: number, size: number): void {
    for (let left = this.#random.between(1, 4); left > 0; left--) {
      const slot = this.#free[0];
      // some are left for what the guest has to say
      if (slot !== undefined && this.#free.length > 8) this.#add(queue, this.#split(slot, size, true));
    }
    this.#harness.notify(queue, !this.#hostile);
  }

  /** A slot's first bytes in one to three pieces. */
  #split(slot: number, length: number, writable: boolean): FuzzSegment[] {
    const segments: FuzzSegment[] = [];
    for (let at = 0; at < length;) {
      const size =
        segments.length === 2 || this.#random.oneIn(2) ? length - at : this.#random.between(1, length - at);
      segments.push({ address: BUFFERS.base + slot * SLOT_SIZE + at, length: size, writable });
      at += size;
    }
    return segments;
  }

  #add(queue: number, segments: readonly FuzzSegment[]): boolean {
    const slot = this.#free[0];
    if (slot === undefined) return false;
    const faulty = this.#hostile && this.#random.oneIn(48);
    if (!this.#harness.add(queue, segments, faulty, slot)) return false;
    this.#free.shift();
    this.#slots.set(segments, slot);
    return true;
  }

  async #settle(): Promise<void> {
    do {
      for (const callback of this.#later.splice(0)) callback();
      await this.#harness.settle();
    } while (this.#later.length > 0);
  }

  /** What must hold whenever nothing is left to be done. */
  #check(): void {
    const harness = this.#harness;
    const fault = harness.reports.find((line) => !harness.spoiled || !BROKEN_RING.test(line));
    if (fault !== undefined) throw new Error(fault);
    if (harness.spoiled) return;
    if (harness.failed) throw new Error('the device needs a reset');
    this.#collect(TRANSMIT);
    for (const used of this.#collect(EVENT)) this.#hearEvent(this.#written(used));
    for (const used of this.#collect(RECEIVE)) {
      const bytes = this.#written(used);
      if (bytes.length > 0) this.#hear(decode(bytes));
      else if (!this.#hostile) throw new Error('a buffer is given back empty');
    }
    for (const socket of this.#sockets) this.#compare(socket);
    for (const { gone } of this.#overrun.splice(0)) {
      if (gone === undefined) throw new Error('more was taken than there is room for');
    }
    this.#answerAll();
  }

  #hearEvent(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    if (Buffer.compare(bytes, new Uint8Array(4)) !== 0) throw new Error('another event than a reset');
    if (!this.#resetDue) throw new Error('an event for nothing');
    this.#resetDue = false;
  }

  /** A packet of the device. */
  #hear(packet: Packet): void {
    const { op, sourcePort: hostPort, targetPort: guestPort } = packet;
    const isOurs = packet.sourceCid === HOST && packet.targetCid === CID && packet.type === STREAM;
    if (!isOurs) {
      if (op !== OP.reset || !this.#hostile) throw new Error('a packet of another kind');
      return;
    }
    const socket = this.#sockets.find((each) => each.guestPort === guestPort && each.hostPort === hostPort);
    const program = this.#host.find(hostPort, guestPort);
    if (op === OP.request) {
      if (socket !== undefined) throw new Error('a request for what there is already');
      this.#answer(packet, program);
      return;
    }
    if (socket === undefined || socket.state === 'over') {
      // of packets that were on their way
      return;
    }
    if (op === OP.reset) {
      this.#hearReset(socket, program);
      return;
    }
    if (op === OP.response && socket.spoiled && socket.state === 'open') {
      // A forged reset and a forged request after it: another connection of these ports, which nobody looks after.
      socket.state = 'over';
      return;
    }
    socket.hearCredit(packet.bufferSize, packet.forwarded, program);
    if (op === OP.response) {
      if (socket.state !== 'asked' || program?.connecting !== false)
        throw new Error('a response that may not be');
      socket.state = 'open';
    } else if (socket.state !== 'open') throw new Error('a packet before the response');
    else if (op === OP.data) socket.hearData(packet.payload, program);
    else if (op === OP.shutdown) this.#hearShutdown(socket, packet.flags, program);
    else if (op !== OP.creditUpdate && op !== OP.creditRequest)
      throw new Error(`operation ${op} of the device`);
  }

  #answer({ sourcePort, targetPort, ...packet }: Packet, program: ProgramModel | undefined): void {
    const socket = new SocketModel(targetPort, sourcePort, this.#bufferSize(), program);
    socket.hearCredit(packet.bufferSize, packet.forwarded, program);
    this.#unanswered.push({ socket, accepts: !this.#random.oneIn(4) });
  }

  /** Answers requests of the host's, as far as there is room in the queue. */
  #answerAll(): void {
    for (let first = this.#unanswered[0]; first !== undefined; first = this.#unanswered[0]) {
      const { socket, accepts } = first;
      if (!this.#send(socket, accepts ? OP.response : OP.reset)) return;
      this.#unanswered.shift();
      if (!accepts) continue;
      socket.state = 'open';
      this.#sockets.push(socket);
    }
  }

  #hearReset(socket: SocketModel, program: ProgramModel | undefined): void {
    const isExpected =
      socket.spoiled ||
      program === undefined ||
      program.gone !== undefined ||
      socket.shutdown === SHUTDOWN.both;
    if (!isExpected) throw new Error('a reset for nothing');
    if (socket.shutdown !== SHUTDOWN.both) socket.spoiled = true;
    socket.state = 'over';
  }

  #hearShutdown(socket: SocketModel, flags: number, program: ProgramModel | undefined): void {
    if (program?.ended !== true && program?.gone === undefined) throw new Error('a shutdown for nothing');
    if ((flags & SHUTDOWN.receive) !== 0 && program.gone === undefined)
      throw new Error('the program still reads');
    const isAll = socket.received === program.sent.length;
    if (!isAll && !socket.spoiled && (socket.shutdown & SHUTDOWN.receive) === 0)
      throw new Error('a shutdown before the last data');
    socket.heardShutdown |= flags;
  }

  /** What has reached the program is what the guest has sent, and no more of it waits than there is room for. */
  #compare(socket: SocketModel): void {
    const program = this.#host.find(socket.hostPort, socket.guestPort);
    if (program === undefined || socket.spoiled) return;
    const { received } = program;
    if (Buffer.compare(received, socket.sent.subarray(0, received.length)) !== 0)
      throw new Error('other data than the guest has sent');
    if (socket.sent.length - program.taken > MAX_ROOM) throw new Error('more is held than there is room for');
  }

  /** With buffers and programs that read everything, all that was sent arrives, and all connections end. */
  async #end(): Promise<void> {
    if (this.#hostile || this.#harness.queues.some((queue) => queue === undefined)) return;
    let before = -1;
    let still = 0;
    for (let turn = 0; turn < TURN_LIMIT; turn++) {
      this.#give(RECEIVE, SLOT_SIZE);
      for (const socket of this.#sockets) {
        if (socket.state !== 'open') continue;
        if (socket.received > socket.told) {
          socket.forwarded = socket.received;
          this.#send(socket, OP.creditUpdate);
        } else if (still >= QUIET_TURNS && socket.shutdown !== SHUTDOWN.both) {
          this.#checkRead(socket);
          this.#shutDown(socket, SHUTDOWN.both);
        }
      }
      for (const program of [...this.#host.programs]) {
        if (program.gone !== undefined) continue;
        if (program.connecting) program.answer();
        program.take();
      }
      await this.#settle();
      this.#check();
      if (this.#harness.spoiled) return;
      if (still >= QUIET_TURNS && this.#device.connectionCount === 0 && this.#isRead()) break;
      const now = this.#progress();
      still = now === before || still >= QUIET_TURNS ? still + 1 : 0;
      before = now;
    }
    if (this.#device.connectionCount > 0)
      throw new Error(`${this.#device.connectionCount} connections are left`);
    for (const socket of this.#sockets) {
      const program = this.#host.find(socket.hostPort, socket.guestPort);
      if (socket.spoiled || program === undefined || program.gone === 'left') continue;
      if (program.received.length !== socket.sent.length) throw new Error('data of the guest is lost');
      if (program.gone !== 'closed') throw new Error('a program is left open');
    }
    this.#give(EVENT, 8);
    await this.#settle();
    this.#check();
    if (this.#harness.spoiled) return;
    if (this.#resetDue && this.#harness.queues[EVENT]!.outstanding.size > 0)
      throw new Error('the driver was not told of a move');
  }

  /** Grows with all that happens to data. */
  #progress(): number {
    const ofSockets = this.#sockets.map(
      ({ received, told, hostForwarded }) => received + told + hostForwarded,
    );
    const ofPrograms = this.#host.programs.map(({ taken, connecting }) => taken + (connecting ? 0 : 1));
    return [...ofSockets, ...ofPrograms].reduce((sum, count) => sum + count, this.#sockets.length);
  }

  /** A socket that takes everything has got all that the program has sent. */
  #checkRead(socket: SocketModel): void {
    const program = this.#host.find(socket.hostPort, socket.guestPort);
    if (socket.spoiled || program === undefined || (socket.shutdown & SHUTDOWN.receive) !== 0) return;
    if (program.gone === 'left' && socket.heardShutdown !== SHUTDOWN.both) {
      throw new Error('the guest was not told that the program has gone');
    }
    if (program.gone !== undefined) return;
    if (socket.received !== program.sent.length) throw new Error('data of the host is left lying');
    const isTaken = program.taken === socket.sent.length;
    if (isTaken && socket.credit < Math.min(LOW_ROOM, socket.room / 2)) {
      throw new Error('the guest was not told of the room that there is');
    }
    if (program.ended && (socket.heardShutdown & SHUTDOWN.send) === 0)
      throw new Error('the guest was not told of the end');
  }

  #isRead(): boolean {
    return this.#host.programs.every((program) => program.gone !== undefined || !program.isWriting);
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

const segmentOf = (slot: number, length: number): FuzzSegment => ({
  address: BUFFERS.base + slot * SLOT_SIZE,
  length,
  writable: false,
});

/** The socket device: packets of a guest, some of them forged, and programs that come, stall and go. */
export const vsockTarget: FuzzTarget = { name: 'vsock', run: (random) => new Case(random).run() };
