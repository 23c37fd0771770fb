import { DeviceConfig } from '../../virtio/device-config.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features } from '../../virtio/features.ts';
import { popOrArm } from '../../virtio/pop-or-arm.ts';
import type { Segments } from '../../virtio/segments.ts';
import type { GuestSockets, GuestStream, HostStream, VsockBackend } from './backend.ts';
import { Connection, type ConnectionOwner } from './connection.ts';
import { Connections } from './connections.ts';
import {
  EVENT_SIZE,
  HEADER_SIZE,
  HOST_CID,
  MAX_GUEST_CID,
  MIN_GUEST_CID,
  OP,
  PacketHeader,
  TRANSPORT_RESET,
  TYPE_STREAM,
} from './protocol.ts';
import { Refusals } from './refusals.ts';
import { checkVsockState } from './state.ts';

/** Feature bit (5.10.3). Sequenced packets would need another kind of socket on the host than Node has. */
export const VSOCK_F_STREAM = 0;

const DEVICE_ID = 19;
/** simple communication controller, other */
const PCI_CLASS = 0x078000;
const RECEIVE = 0;
const TRANSMIT = 1;
const EVENT = 2;
const QUEUE_SIZES = [256, 256, 16];

/** Most connections at a time. */
export const CONNECTION_LIMIT = 1023;
/** Room of a connection for what the host's program has not taken: the first ones have more of it, in bytes. */
const LARGE_BUFFER = 256 * 1024;
const SMALL_BUFFER = 32 * 1024;
const LARGE_BUFFERS = 128;
/** Answers that may wait for room in the receive queue before the transmit queue has to. */
const REFUSAL_LIMIT = 256;

/** After so many bytes in a row it is the turn of the event loop's other work. */
const TURN_BYTES = 1024 * 1024;
/** What a packet counts for in a turn besides its bytes. */
const PACKET_COST = 512;
/** Packets of one connection in a row, while others wait. */
const BURST = 8;
const TICK_MS = 500;
/** Ticks that either side gets to answer. */
const PENDING_TICKS = 20;

export type VsockOptions = {
  /** in messages and counters */
  readonly name: string;
  /** the guest's address, 3 to 2^32 - 2 */
  readonly cid: number;
  readonly backend: VsockBackend;
  /** takes lines about what a guest did wrong, each of them once */
  readonly log?: (line: string) => void;
  /** calls back later in the event loop; default `setImmediate` */
  readonly defer?: (callback: () => void) => void;
};

/**
 * The socket device (VIRTIO 1.2, 5.10): stream connections between programs of the guest and of the host. What a
 * hostile guest can make it hold is bounded: so many connections, with a buffer each, and some answers.
 */
export class VsockDevice implements VirtioDevice, GuestSockets, ConnectionOwner {
  readonly name: string;
  readonly deviceId = DEVICE_ID;
  readonly pciClass = PCI_CLASS;
  readonly features = Features.of(VSOCK_F_STREAM);
  readonly queueSizes = QUEUE_SIZES;
  readonly config = new DeviceConfig([{ name: 'guestCid', width: 8 }]);
  readonly #cid: number;
  readonly #backend: VsockBackend;
  readonly #log: (line: string) => void;
  readonly #defer: (callback: () => void) => void;
  readonly #logged = new Set<string>();
  readonly #connections = new Connections();
  readonly #refusals = new Refusals(REFUSAL_LIMIT);
  readonly #incoming = new PacketHeader();
  readonly #outgoing = new PacketHeader();
  /** connections with something to send, in their turn */
  #ready: Connection[] = [];
  /** packets of the first of them in a row */
  #burst = 0;
  #activation: Activation | undefined;
  #paused = false;
  #deferred = false;
  #serving = false;
  #resetDue = false;
  #clock: NodeJS.Timeout | undefined;

  /** @throws RangeError for an address that is none of a guest */
  constructor({ name, cid, backend, log, defer }: VsockOptions) {
    if (!Number.isInteger(cid) || cid < MIN_GUEST_CID || cid > MAX_GUEST_CID) {
      throw new RangeError(`a guest's CID is from ${MIN_GUEST_CID} to ${MAX_GUEST_CID}, not ${cid}`);
    }
    this.name = name;
    this.#cid = cid;
    this.#backend = backend;
    this.#log = log ?? (() => undefined);
    this.#defer = defer ?? ((callback) => void setImmediate(callback));
    this.config.set({ guestCid: cid });
    backend.attach(this);
  }

  /** connections there are, those that are being opened or closed among them */
  get connectionCount(): number {
    return this.#connections.count;
  }

  open(guestPort: number, stream: HostStream): GuestStream | undefined {
    if (this.#activation === undefined || this.#connections.count >= CONNECTION_LIMIT) return undefined;
    const place = { guestPort, hostPort: this.#connections.freePort(), bufferSize: this.#bufferSize() };
    const connection = new Connection(this, place, stream);
    this.#add(connection);
    this.ready(connection);
    return connection;
  }

  ready(connection: Connection): void {
    if (connection.queued) return;
    connection.queued = true;
    this.#ready.push(connection);
    // What comes up meanwhile is sent at the end of it.
    if (!this.#serving) this.#later();
  }

  activate(activation: Activation): void {
    this.#activation = activation;
  }

  notified(index: number): void {
    if (index === EVENT) this.#sendEvent();
    else this.#serve();
  }

  /** What the guest has sent still reaches the host's programs. */
  reset(): undefined {
    this.#activation = undefined;
    this.#resetDue = false;
    clearInterval(this.#clock);
    this.#clock = undefined;
    for (const connection of this.#connections) connection.detach();
    this.#connections.clear();
    this.#ready = [];
    this.#burst = 0;
    this.#refusals.clear();
  }

  pause(): Promise<void> {
    this.#paused = true;
    return Promise.resolve();
  }

  resume(): void {
    this.#paused = false;
  }

  close(): void {
    this.#backend.attach(undefined);
  }

  save(): unknown {
    return {};
  }

  /** The connections of before are gone, and the driver is told so (5.10.6.7); the address may be another one. */
  restore(data: unknown): void {
    checkVsockState(this.name, data);
    this.#resetDue = true;
  }

  #add(connection: Connection): void {
    this.#connections.add(connection);
    this.#startClock();
  }

  #bufferSize(): number {
    return this.#connections.count < LARGE_BUFFERS ? LARGE_BUFFER : SMALL_BUFFER;
  }

  /** Takes what the guest has sent, and gives it what there is for it. */
  #serve(): void {
    if (this.#activation === undefined || this.#paused) return;
    this.#serving = true;
    try {
      const received = this.#receive();
      const isBlocked = this.#refusals.isFull;
      const sent = this.#transmit();
      // There is room for answers again, and the driver was not asked to notify of what waits.
      const isFree = isBlocked && this.#refusals.count < REFUSAL_LIMIT;
      if (received <= 0 || sent <= 0 || isFree) this.#later();
    } finally {
      this.#serving = false;
    }
  }

  /** Packets of the guest; returns what is left of the turn. */
  #receive(): number {
    const queue = this.#activation?.queues[TRANSMIT];
    let left = TURN_BYTES;
    if (queue === undefined) return left;
    queue.disableNotifications();
    // A driver that does not take answers is not listened to any more (5.10.6.2).
    while (left > 0 && !this.#refusals.isFull) {
      const chain = popOrArm(queue, () => this.#later());
      if (chain === undefined) break;
      left -= PACKET_COST + this.#takePacket(chain.readable);
      queue.push(chain.head, 0);
    }
    queue.flush();
    return left;
  }

  /** Returns the bytes of payload that were taken. */
  #takePacket(packet: Segments): number {
    const header = this.#incoming;
    if (packet.byteLength < HEADER_SIZE) {
      this.#complain('the guest sends packets without a whole header');
      return 0;
    }
    packet.read(0, header.bytes);
    const isOurs =
      header.sourceCid === this.#cid && header.targetCid === HOST_CID && header.type === TYPE_STREAM;
    if (!isOurs) {
      this.#refuse(header);
      return 0;
    }
    const connection = this.#connections.find(header.targetPort, header.sourcePort);
    if (header.length > packet.byteLength - HEADER_SIZE) {
      this.#complain('the guest sends packets that are shorter than they say');
      if (connection !== undefined) connection.reset();
      else this.#refuse(header);
    } else if (connection === undefined) {
      if (header.op === OP.request) this.#connect(header);
      else this.#refuse(header);
    } else if (connection.receive(header, packet) === 'remove') this.#connections.remove(connection);
    return header.length;
  }

  /** The guest asks for a connection to a port of the host. */
  #connect(header: PacketHeader): void {
    const place = {
      guestPort: header.sourcePort,
      hostPort: header.targetPort,
      bufferSize: this.#bufferSize(),
    };
    const connection = new Connection(this, place);
    const isPossible = this.#connections.count < CONNECTION_LIMIT && connection.request(header);
    const stream = isPossible ? this.#backend.connect(place.hostPort, connection) : undefined;
    if (stream === undefined) {
      this.#refuse(header);
      return;
    }
    connection.attach(stream);
    this.#add(connection);
  }

  /** There is nobody to take this packet. */
  #refuse(header: PacketHeader): void {
    if (header.op === OP.reset) return;
    this.#outgoing.setRefusal(header.bytes);
    this.#refusals.push(this.#outgoing);
  }

  /** Packets for the guest, as far as it has given buffers; returns what is left of the turn. */
  #transmit(): number {
    const queue = this.#activation?.queues[RECEIVE];
    let left = TURN_BYTES;
    if (queue === undefined) return left;
    while (left > 0 && this.#hasPackets()) {
      const chain = popOrArm(queue, () => this.#later());
      if (chain === undefined) break;
      const written = this.#sendOne(chain.writable);
      queue.push(chain.head, written);
      left -= PACKET_COST + written;
    }
    queue.flush();
    if (!this.#hasPackets()) queue.disableNotifications();
    return left;
  }

  /** Whether there is something to send; then the first connection in turn has it, unless a refusal waits. */
  #hasPackets(): boolean {
    if (this.#refusals.count > 0) return true;
    for (let first = this.#ready[0]; first !== undefined; first = this.#ready[0]) {
      if (first.next() !== undefined) return true;
      this.#leave(first);
    }
    return false;
  }

  /** Fills one buffer; returns how many bytes of it. */
  #sendOne(target: Segments): number {
    if (target.byteLength < HEADER_SIZE) {
      this.#complain('the guest gives buffers that are too small for a packet');
      return 0;
    }
    if (this.#refusals.count > 0) {
      const written = target.write(0, this.#refusals.peek());
      this.#refusals.shift();
      return written;
    }
    const connection = this.#ready[0]!;
    const op = connection.next()!;
    if (op === OP.data && target.byteLength === HEADER_SIZE) {
      this.#complain('the guest gives buffers that have no room for data');
      return 0;
    }
    const length = op === OP.data ? connection.fill(target) : 0;
    connection.sent(op, this.#outgoing, this.#cid, length);
    target.write(0, this.#outgoing.bytes);
    if (op === OP.reset) this.#connections.remove(connection);
    else if (connection.isPending) this.#startClock();
    if (++this.#burst >= BURST || op === OP.reset) {
      this.#leave(connection);
      if (connection.next() !== undefined) this.ready(connection);
    }
    return HEADER_SIZE + length;
  }

  /** The next connection's turn. */
  #leave(first: Connection): void {
    this.#ready.shift();
    this.#burst = 0;
    first.queued = false;
  }

  #sendEvent(): void {
    const queue = this.#activation?.queues[EVENT];
    if (queue === undefined || this.#paused) return;
    while (this.#resetDue) {
      const chain = popOrArm(queue, () => this.#later());
      if (chain === undefined) break;
      const fits = chain.writable.byteLength >= EVENT_SIZE;
      if (fits) chain.writable.writeU32(0, TRANSPORT_RESET);
      else this.#complain('the guest gives event buffers that are too small');
      queue.push(chain.head, fits ? EVENT_SIZE : 0);
      this.#resetDue = !fits;
    }
    queue.flush();
    if (!this.#resetDue) queue.disableNotifications();
  }

  #later(): void {
    if (this.#deferred) return;
    this.#deferred = true;
    this.#defer(() => {
      this.#deferred = false;
      try {
        this.#serve();
        this.#sendEvent();
      } catch (error) {
        // Out of the event loop, where nobody catches.
        this.#activation?.needsReset(String(error));
      }
    });
  }

  /** Watches over connections that wait for an answer, while there are some. */
  #startClock(): void {
    this.#clock ??= setInterval(() => this.#tick(), TICK_MS).unref();
  }

  #tick(): void {
    if (this.#paused) return;
    let pending = 0;
    for (const connection of this.#connections) {
      connection.tick(PENDING_TICKS);
      if (connection.isPending) pending++;
    }
    if (pending > 0) return;
    clearInterval(this.#clock);
    this.#clock = undefined;
  }

  #complain(line: string): void {
    if (this.#logged.has(line)) return;
    this.#logged.add(line);
    this.#log(`${this.name}: ${line}`);
  }
}
