/**
 * A layer-2 switch between stream sockets. Frames pass as they are, with the offload headers before them, so that what
 * one guest leaves undone (checksums, TCP segments) another one can take like that; a guest that cannot has it done by
 * its own VMM. Nothing is copied on the way, and nothing is allocated for a frame.
 */
import { FramePort, VNET_HEADER, type FrameEnd } from '../../kvm/frame-port.ts';
import { FRAME_RECORDS } from '../../kvm/frame-list.ts';
import { MacTable } from './mac-table.ts';
import { ETHERNET } from './packet.ts';

/** How long a port whose socket is full may keep those waiting that send to it, before what is sent there is dropped. */
const PATIENCE_MS = 10;
const LEAST_FRAME = VNET_HEADER + ETHERNET.header;
/** Frames of the switch's own. */
const OWN_FRAME_LIMIT = 2048;

const SOURCE = 6;

/** Who a switch works for. */
export type SwitchOwner = {
  /** A frame without its offload header, for the switch's own address, for all or for a group; not to be kept. */
  received(frame: Buffer, port: number): void;
  /** The port's peer has gone, or does not speak the protocol; the port is removed already. */
  left(port: number, end: FrameEnd): void;
  /** The first frame of a port, not to be kept: whether the port is let in. */
  greeted(port: number, frame: Buffer): boolean;
};

export type PortCounters = { readonly dropped: number; readonly forged: number };

export class Switch {
  readonly #owner: SwitchOwner;
  readonly #ports = new Map<number, Port>();
  readonly #table = new MacTable();
  readonly #mac: readonly [high: number, low: number];
  readonly #now: () => number;
  #nextId = 1;
  /** those that frames were added to since the last {@link #flush} */
  readonly #touched: Port[] = [];

  /** @param now in seconds, of a clock that never goes back */
  constructor(mac: Uint8Array, owner: SwitchOwner, now = () => performance.now() / 1000) {
    this.#owner = owner;
    this.#now = now;
    this.#mac = wordsOf(mac);
  }

  get size(): number {
    return this.#ports.size;
  }

  /** Addresses that are known. */
  get addresses(): number {
    return this.#table.size;
  }

  /** Takes a connected socket; returns the port's number. */
  add(fd: number): number {
    const id = this.#nextId++;
    const port: Port = new Port(id, fd, {
      readable: () => this.#take(port),
      writable: () => this.#drain(port),
      ended: (end) => {
        this.remove(id);
        this.#owner.left(id, end);
      },
    });
    this.#ports.set(id, port);
    return id;
  }

  /** The station of that address is behind this port, whoever else says to be it. */
  fix(id: number, mac: Uint8Array): void {
    this.#table.fix(...wordsOf(mac), id);
  }

  remove(id: number): void {
    const port = this.#ports.get(id);
    if (port === undefined) return;
    this.#ports.delete(id);
    this.#table.forget(id);
    port.close();
    for (const other of this.#ports.values()) other.forgetSource(port);
    this.#give(port);
  }

  counters(id: number): PortCounters | undefined {
    const port = this.#ports.get(id);
    return port && { dropped: port.dropped, forged: port.forged };
  }

  /** Sends a frame of the switch's own, without an offload header. It is dropped where the port takes nothing now. */
  send(id: number, frame: Uint8Array): void {
    this.#ports.get(id)?.sendOwn(frame);
  }

  /** Sends bytes as they are, as an answer to a greeting. */
  reply(id: number, frame: Uint8Array): void {
    this.#ports.get(id)?.sendOwn(frame, 0);
  }

  close(): void {
    for (const id of [...this.#ports.keys()]) this.remove(id);
  }

  #take(source: Port): void {
    const count = source.frames.fetch();
    source.more = count === FRAME_RECORDS;
    if (count === 0) return;
    const staging = source.staging;
    for (let i = 0; i < count; i++) {
      const at = source.frames.offset(i);
      const length = source.frames.length(i);
      if (source.greeted) this.#forward(source, staging, at, length);
      else if (this.#owner.greeted(source.id, staging.subarray(at, at + length))) source.greeted = true;
      // What the owner does with a port may be to remove it.
      if (!source.frames.isOpen) return;
    }
    source.fetched = count;
    this.#flush(source);
    this.#release(source);
  }

  #forward(source: Port, staging: Buffer, at: number, length: number): void {
    if (length < LEAST_FRAME) {
      source.dropped++;
      return;
    }
    const now = this.#now();
    const frame = at + VNET_HEADER;
    const sourceHigh = (staging[frame + SOURCE]! << 8) | staging[frame + SOURCE + 1]!;
    const sourceLow = lowOf(staging, frame + SOURCE + 2);
    const high = (staging[frame]! << 8) | staging[frame + 1]!;
    const low = lowOf(staging, frame + 2);
    const [ownHigh, ownLow] = this.#mac;
    if (
      (sourceHigh === ownHigh && sourceLow === ownLow) ||
      !this.#table.learn(sourceHigh, sourceLow, source.id, now)
    ) {
      source.forged++;
      return;
    }
    // The lowest bit of the first byte: a group, or all.
    const group = (high & 0x0100) !== 0;
    const own = high === ownHigh && low === ownLow;
    if (group || own) this.#owner.received(staging.subarray(frame, at + length), source.id);
    if (own || !source.frames.isOpen) return;
    const known = group ? undefined : this.#table.find(high, low, now);
    const port = known === undefined ? undefined : this.#ports.get(known);
    if (port !== undefined) {
      if (port !== source) this.#add(port, source, at, length);
      return;
    }
    for (const other of this.#ports.values()) if (other !== source) this.#add(other, source, at, length);
  }

  #add(port: Port, source: Port, at: number, length: number): void {
    if (!port.greeted) return;
    if (!port.add(source, at, length)) return;
    if (!port.touched) {
      port.touched = true;
      this.#touched.push(port);
    }
  }

  /** Sends what was added to ports. `source` waits for those that are full but were not a moment ago. */
  #flush(source: Port): void {
    for (const port of this.#touched) {
      port.touched = false;
      port.transmit();
      if (port.frames.tx.count === 0) continue;
      if (port.isLossy) {
        port.drop();
        continue;
      }
      source.waitsFor.add(port);
      port.startPatience(() => {
        port.drop();
        this.#give(port);
      });
    }
    this.#touched.length = 0;
  }

  /** The socket of a port takes more. */
  #drain(port: Port): void {
    port.transmit();
    if (port.frames.tx.count === 0) {
      port.isLossy = false;
      this.#give(port);
    }
  }

  /** Lets those go on that wait for a port. */
  #give(port: Port): void {
    port.endPatience();
    for (const source of this.#ports.values()) if (source.waitsFor.delete(port)) this.#release(source);
  }

  /** The frames of a port are through, one way or the other: it may send more. */
  #release(source: Port): void {
    if (source.waitsFor.size > 0) {
      source.frames.listen(false);
      return;
    }
    if (source.fetched > 0 && source.frames.isOpen) source.frames.consume(source.fetched);
    source.fetched = 0;
    if (!source.frames.isOpen) return;
    source.frames.listen(true);
    // Of those that lie in the staging memory already nobody tells.
    if (source.more) setImmediate(() => this.#goOn(source));
  }

  #goOn(source: Port): void {
    if (source.more && source.waitsFor.size === 0 && source.frames.isOpen) this.#take(source);
  }
}

type PortHooks = { readable(): void; writable(): void; ended(end: FrameEnd): void };

class Port {
  readonly id: number;
  readonly frames = new FramePort();
  readonly staging: Buffer;
  /** it has said who it is, and was let in */
  greeted = false;
  touched = false;
  /** Its socket was full for too long: what it does not take at once is dropped, until it has taken all. */
  isLossy = false;
  /** ports that are full, for which frames of this one wait in its staging memory */
  readonly waitsFor = new Set<Port>();
  /** frames in the staging memory that have been looked at */
  fetched = 0;
  /** there may be more of them than one call gives */
  more = false;
  dropped = 0;
  forged = 0;
  readonly #own = Buffer.alloc(OWN_FRAME_LIMIT);
  readonly #ownNumber: number;
  /** numbers of others' staging memory */
  readonly #sources = new Map<Port, number>();
  #patience: NodeJS.Timeout | undefined;

  constructor(id: number, fd: number, hooks: PortHooks) {
    this.id = id;
    this.frames.onEnd = (end) => hooks.ended(end);
    this.frames.user = { readable: () => hooks.readable(), writable: () => hooks.writable() };
    // Offload headers are a part of the frame here, which is nobody's to look at.
    this.frames.open(fd, 'stream', false);
    const staging = this.frames.staging!;
    this.staging = Buffer.from(staging.buffer, staging.byteOffset, staging.byteLength);
    this.#ownNumber = this.frames.register(this.#own);
    this.frames.listen(true);
  }

  /** Returns whether there was room. */
  add(source: Port, at: number, length: number): boolean {
    let number = this.#sources.get(source);
    if (number === undefined) {
      number = this.frames.register(source.staging);
      this.#sources.set(source, number);
    }
    this.frames.tx.add(number, at, length);
    const added = this.frames.tx.end();
    if (!added) this.dropped++;
    return added;
  }

  forgetSource(source: Port): void {
    const number = this.#sources.get(source);
    if (number !== undefined) this.frames.unregister(number);
    this.#sources.delete(source);
  }

  transmit(): void {
    this.frames.tx.shift(this.frames.send());
  }

  /** Drops what waits, and what comes until it has room again. */
  drop(): void {
    this.dropped += this.frames.tx.count;
    this.frames.tx.clear();
    this.isLossy = true;
  }

  sendOwn(frame: Uint8Array, header = VNET_HEADER): void {
    const { tx } = this.frames;
    // Others' frames wait already.
    if (tx.count > 0 || frame.length + header > OWN_FRAME_LIMIT) {
      this.dropped++;
      return;
    }
    this.#own.fill(0, 0, header);
    this.#own.set(frame, header);
    tx.add(this.#ownNumber, 0, header + frame.length);
    tx.end();
    this.transmit();
    this.dropped += tx.count;
    tx.clear();
  }

  startPatience(over: () => void): void {
    this.#patience ??= setTimeout(() => {
      this.#patience = undefined;
      over();
    }, PATIENCE_MS);
  }

  endPatience(): void {
    clearTimeout(this.#patience);
    this.#patience = undefined;
  }

  close(): void {
    this.endPatience();
    this.frames.onEnd = undefined;
    this.frames.user = undefined;
    this.frames.shut();
    this.frames.tx.clear();
    for (const source of [...this.#sources.keys()]) this.forgetSource(source);
  }
}

function wordsOf(mac: Uint8Array): readonly [high: number, low: number] {
  return [(mac[0]! << 8) | mac[1]!, lowOf(mac, 2)];
}

/** The four bytes from `at` on, as a number without sign. */
function lowOf(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}
