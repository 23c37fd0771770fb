import { writeSync } from 'node:fs';
import { NetDevice } from '../../../src/devices/net/device.ts';
import { featuresAgree } from '../../../src/devices/net/features.ts';
import { FramePort } from '../../../src/kvm/frame-port.ts';
import { unixPair } from '../../../src/kvm/unix-socket.ts';
import type { NetBackend } from '../../../src/net/backend.ts';
import { Features } from '../../../src/virtio/features.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { BUFFERS, DeviceHarness, type Used } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import { arrived, BIT, FilterModel, HEADER, sent, type Offloads, type VnetFrame } from '../net-model.ts';
import type { Random } from '../random.ts';

const MAC = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
const OTHER = Uint8Array.of(0x52, 0x54, 0, 9, 9, 9);
const GROUP = Uint8Array.of(0x33, 0x33, 0, 0, 0, 1);
const BROADCAST = new Uint8Array(6).fill(0xff);
const RECEIVE = 0;
const TRANSMIT = 1;
const CONTROL = 2;
/** where a queue's buffers may be; each request that is not used yet has a place of its own in it */
const AREAS = [
  { base: 0xa000, end: 0xc000 },
  { base: BUFFERS.base, end: BUFFERS.end - 0x200 },
  { base: BUFFERS.end - 0x200, end: BUFFERS.end },
] as const;
const LONGEST = 900;

/** Ports cost more to make than a case to run. They are the same again once they are opened anew. */
const ours = new FramePort();
const theirs = new FramePort();
const outgoing = new Uint8Array(0x10000);
const outgoingBuffer = theirs.register(outgoing);

class Backend implements NetBackend {
  readonly name = 'fuzz';
  readonly ports = [ours];
  readonly vnetHeader: boolean;
  link = true;
  onLink: ((up: boolean) => void) | undefined;

  constructor(vnetHeader: boolean) {
    this.vnetHeader = vnetHeader;
    const [one, other] = unixPair();
    ours.open(one, 'stream', vnetHeader);
    theirs.open(other, 'stream', false);
  }

  close(): Promise<void> {
    ours.shut();
    theirs.shut();
    return Promise.resolve();
  }
}

/** A buffer of the receive queue that the device has. */
type Posted = { readonly room: number; readonly segments: readonly FuzzSegment[] };

class Case {
  readonly #random: Random;
  readonly #backend: Backend;
  readonly #harness: DeviceHarness;
  #device: NetDevice;
  readonly #filter = new FilterModel(MAC);
  #features = new Features(0, 0);
  /** next free place of each area; begun anew when the queue has nothing any more */
  readonly #next: number[] = AREAS.map(({ base }) => base);
  #posted: Posted[] = [];
  /** what the host has sent and the guest has not got */
  #incoming: VnetFrame[] = [];

  constructor(random: Random) {
    this.#random = random;
    this.#backend = new Backend(random.oneIn(2));
    this.#device = this.#make();
    this.#harness = new DeviceHarness(random, this.#device);
  }

  async run(): Promise<void> {
    try {
      await this.#run();
    } finally {
      void this.#harness.core.reset();
      this.#device.close();
      await this.#backend.close();
    }
    this.#harness.ram.checkGuards();
  }

  async #run(): Promise<void> {
    const random = this.#random;
    this.#start();
    for (let left = random.between(2, 10); left > 0; left--) {
      const what = random.below(12);
      if (what < 4) await this.#transmit();
      else if (what < 8) await this.#receive();
      else if (what < 10) await this.#control();
      else if (what === 10) await this.#move();
      else if (random.oneIn(4)) await this.#breakProtocol();
      else this.#pull();
      if (!this.#harness.spoiled) continue;
      await this.#harness.settle();
      this.#harness.ram.checkGuards();
      if (random.oneIn(2)) return;
      theirs.fetch();
      return;
    }
  }

  #make(): NetDevice {
    const poll = { limit: 0 };
    return new NetDevice({ name: 'n', backend: this.#backend, mac: MAC, poll });
  }

  /** From reset to DRIVER_OK with some of the features. */
  #start(): void {
    const random = this.#random;
    const { low } = this.#device.features;
    const some = new Features(random.oneIn(2) ? low : (low & random.word()) >>> 0, 0);
    this.#features = featuresAgree(some) ? some : new Features(low, 0);
    this.#filter.byVlan = this.#has(BIT.ctrlVlan);
    this.#harness.start(this.#features.low, [RECEIVE, TRANSMIT, CONTROL]);
  }

  #has(bit: number): boolean {
    return this.#features.has(bit);
  }

  get #host(): Offloads {
    const [checksum, tso4, tso6, ecn] = [BIT.csum, BIT.hostTso4, BIT.hostTso6, BIT.hostEcn].map((bit) =>
      this.#has(bit),
    );
    return { checksum: checksum!, tso4: tso4!, tso6: tso6!, ecn: ecn! };
  }

  get #guest(): Offloads {
    const [checksum, tso4, tso6, ecn] = [BIT.guestCsum, BIT.guestTso4, BIT.guestTso6, BIT.guestEcn].map(
      (bit) => this.#has(bit),
    );
    return { checksum: checksum!, tso4: tso4!, tso6: tso6!, ecn: ecn! };
  }

  // ---- what there is to send

  #address(): Uint8Array {
    return this.#random.pick([MAC, MAC, OTHER, GROUP, BROADCAST, this.#filter.mac]);
  }

  /** A frame with TCP in it, all that segmentation looks at mostly right, and where its header ends. */
  #tcp(six: boolean): { frame: Uint8Array; tcp: number } {
    const random = this.#random;
    const tag = random.oneIn(4) ? 4 : 0;
    const options = six ? 0 : random.below(3) * 4;
    const ip = 14 + tag;
    const tcp = ip + (six ? 40 : 20 + options);
    const words = random.between(5, 8);
    const frame = random.fill(new Uint8Array(tcp + 4 * words + random.between(1, LONGEST - 200)));
    frame.set(this.#address());
    if (tag > 0) frame.set([0x81, 0, 0, random.below(4)], 12);
    frame.set(six ? [0x86, 0xdd] : [8, 0], 12 + tag);
    frame[ip] = six ? 0x60 : 0x45 + options / 4;
    if (!six) frame[ip + 9] = 6;
    frame[tcp + 12] = words << 4;
    if (random.oneIn(8)) frame[random.pick([12, ip, ip + 9, tcp + 12])]! ^= 1 << random.below(8);
    return { frame, tcp };
  }

  /** An offload header and a frame that go together, mostly. */
  #packet(): Uint8Array {
    const random = this.#random;
    const header = new Uint8Array(HEADER);
    const view = new DataView(header.buffer);
    let frame: Uint8Array;
    const six = random.oneIn(2);
    if (random.oneIn(2)) {
      const made = this.#tcp(six);
      frame = made.frame;
      header[0] = 1;
      view.setUint16(6, made.tcp, true);
      view.setUint16(8, 16, true);
      if (!random.oneIn(3)) {
        header[1] = (six ? 4 : 1) | (random.oneIn(8) ? 0x80 : 0);
        view.setUint16(4, random.pick([1, random.between(20, 200), random.between(1, 1500)]), true);
        view.setUint16(2, random.pick([0, made.tcp + 20, random.below(0x10000)]), true);
      }
    } else {
      frame = random.fill(
        new Uint8Array(random.pick([14, random.between(14, 100), random.between(14, LONGEST)])),
      );
      frame.set(this.#address());
      if (frame.length >= 16 && random.oneIn(4)) frame.set([0x81, 0, random.below(16), random.below(4)], 12);
      if (random.oneIn(4)) {
        header[0] = random.pick([1, 1, 2, 3, random.below(256)]);
        view.setUint16(6, random.below(frame.length + 4), true);
        view.setUint16(8, random.below(32), true);
      }
    }
    if (random.oneIn(8)) header[random.below(HEADER)]! ^= 1 << random.below(8);
    const packet = Uint8Array.from([...header, ...frame]);
    return random.oneIn(16) ? packet.subarray(0, random.between(1, packet.length)) : packet;
  }

  /** Room in an area, in pieces one after the other; undefined where there is none left. */
  #place(queue: number, bytes: Uint8Array, writable: boolean, most = 5): FuzzSegment[] | undefined {
    const random = this.#random;
    const { end } = AREAS[queue]!;
    let at = this.#next[queue]!;
    if (at + bytes.length > end) return undefined;
    this.#harness.ram.memory.write(at, bytes);
    this.#next[queue] = at + bytes.length;
    const segments: FuzzSegment[] = [];
    for (let left = bytes.length, pieces = random.between(1, most); left > 0; pieces--) {
      const length = pieces <= 1 ? left : random.between(1, left);
      segments.push({ address: at, length, writable });
      at += length;
      left -= length;
    }
    return segments;
  }

  // ---- steps

  async #transmit(): Promise<void> {
    const random = this.#random;
    const queue = this.#harness.queues[TRANSMIT]!;
    this.#next[TRANSMIT] = AREAS[TRANSMIT].base;
    const before = ours.counters.refused;
    const expected: Uint8Array[] = [];
    let refused = 0;
    for (let i = random.between(1, 6); i > 0; i--) {
      const packet = this.#packet();
      const segments = this.#place(TRANSMIT, packet, false);
      if (segments === undefined) break;
      if (!this.#harness.add(TRANSMIT, segments)) continue;
      if (!this.#device.link) continue;
      const frames = sent(packet, this.#host, this.#backend.vnetHeader);
      if (frames === undefined) refused++;
      else expected.push(...frames);
    }
    this.#harness.notify(TRANSMIT);
    if (this.#harness.spoiled) return;
    await this.#harness.settle(() => queue.idle);
    for (const { written } of queue.collect()) if (written !== 0) throw new Error('a frame was written to');
    this.#compare(this.#taken(), expected, 'sent');
    if (ours.counters.refused - before !== refused)
      throw new Error(`${ours.counters.refused - before} frames refused instead of ${refused}`);
  }

  /** All that the host has got. */
  #taken(): Uint8Array[] {
    const frames: Uint8Array[] = [];
    for (let count = theirs.fetch(); count > 0; count = theirs.fetch()) {
      const staging = theirs.staging!;
      for (let i = 0; i < count; i++) {
        const from = theirs.offset(i);
        frames.push(staging.slice(from, from + theirs.length(i)));
      }
      theirs.consume(count);
    }
    return frames;
  }

  #compare(got: readonly Uint8Array[], expected: readonly Uint8Array[], what: string): void {
    if (got.length !== expected.length)
      throw new Error(`${got.length} frames were ${what} instead of ${expected.length}`);
    for (const [i, bytes] of got.entries()) {
      if (Buffer.compare(bytes, expected[i]!) !== 0) throw new Error(`frame ${i} was ${what} wrong`);
    }
  }

  async #receive(): Promise<void> {
    const random = this.#random;
    if (this.#posted.length === 0) this.#next[RECEIVE] = AREAS[RECEIVE].base;
    for (let i = random.below(5); i > 0; i--) {
      if (!this.#post(random.pick([random.between(1, 100), random.between(1, 1000), 1200]))) break;
    }
    const frames: Uint8Array[] = [];
    for (let i = random.below(5); i > 0; i--) {
      const packet = this.#packet();
      const bytes = this.#backend.vnetHeader ? packet : packet.subarray(HEADER);
      if (bytes.length <= (this.#backend.vnetHeader ? HEADER : 0)) continue;
      frames.push(bytes);
    }
    if (this.#device.link) this.#hostSends(frames);
    this.#harness.notify(RECEIVE);
    await this.#arrive();
  }

  #post(room: number): boolean {
    const random = this.#random;
    const segments = this.#place(RECEIVE, new Uint8Array(room).fill(0xee), true);
    if (segments === undefined) return false;
    const [, ...rest] = segments;
    // what the driver gave to read is not for frames
    const readable = random.oneIn(16) && rest.length > 0;
    const list = readable
      ? segments.map((each, i) => (i === 0 ? { ...each, writable: false } : each))
      : segments;
    if (!this.#harness.add(RECEIVE, list)) return false;
    const size = list.reduce((sum, { length, writable }) => sum + (writable ? length : 0), 0);
    this.#posted.push({ room: size, segments: list });
    return true;
  }

  #hostSends(frames: readonly Uint8Array[]): void {
    let at = 0;
    for (const bytes of frames) {
      outgoing.set(bytes, at);
      theirs.tx.add(outgoingBuffer, at, bytes.length);
      theirs.tx.end();
      at += bytes.length;
      // Shorter ones the peer's own port does not send.
      if (bytes.length < 14) continue;
      this.#incoming.push(...arrived(bytes, this.#guest, this.#backend.vnetHeader));
    }
    if (theirs.send() !== frames.length) throw new Error('the socket is full');
    theirs.tx.clear();
  }

  /** What is to be in the buffers by now, is. */
  async #arrive(): Promise<void> {
    if (this.#harness.spoiled) return;
    const queue = this.#harness.queues[RECEIVE]!;
    const expected: { bytes: Uint8Array; buffers: Posted[] }[] = [];
    while (this.#incoming.length > 0 && this.#device.link) {
      const { header, frame } = this.#incoming[0]!;
      if (!this.#filter.passes(frame)) {
        this.#incoming.shift();
        continue;
      }
      const buffers = this.#takeBuffers(HEADER + frame.length);
      if (buffers === undefined) break;
      this.#incoming.shift();
      if (buffers.length === 0) continue;
      const bytes = Uint8Array.from([...header, ...frame]);
      bytes[10] = buffers.length & 0xff;
      bytes[11] = buffers.length >>> 8;
      expected.push({ bytes, buffers });
    }
    const count = expected.reduce((sum, { buffers }) => sum + buffers.length, 0);
    const used: Used[] = [];
    await this.#harness.settle(() => used.push(...queue.collect()) >= count);
    if (used.length !== count) throw new Error(`${used.length} buffers are used instead of ${count}`);
    for (const { bytes, buffers } of expected)
      this.#compareBuffers(used.splice(0, buffers.length), bytes, buffers);
  }

  /** The next buffers, for so many bytes: none where they never fit, undefined where more are to come. */
  #takeBuffers(wanted: number): Posted[] | undefined {
    if (this.#posted.length === 0) return undefined;
    if (!this.#has(BIT.mrgRxbuf)) return this.#posted[0]!.room < wanted ? [] : this.#posted.splice(0, 1);
    let room = 0;
    for (const [i, posted] of this.#posted.entries()) {
      room += posted.room;
      if (room >= wanted) return this.#posted.splice(0, i + 1);
    }
    return undefined;
  }

  #compareBuffers(used: readonly Used[], bytes: Uint8Array, buffers: readonly Posted[]): void {
    const { memory } = this.#harness.ram;
    let at = 0;
    for (const [i, { room, segments }] of buffers.entries()) {
      const { chain, written } = used[i]!;
      if (chain.segments !== segments) throw new Error('a frame is in another buffer than the next');
      const here = Math.min(room, bytes.length - at);
      if (written !== here) throw new Error(`${written} bytes are written instead of ${here}`);
      const content = segments.map(({ address, length, writable }) => ({
        writable,
        bytes: memory.read(address, length),
      }));
      const given = Buffer.concat(content.filter(({ writable }) => writable).map((each) => each.bytes));
      if (Buffer.compare(given.subarray(0, here), bytes.subarray(at, at + here)) !== 0)
        throw new Error('a frame arrived wrong');
      if (content.some((each) => !each.writable && each.bytes.some((byte) => byte !== 0xee)))
        throw new Error('what was there to read is written to');
      at += here;
    }
  }

  async #control(): Promise<void> {
    // Frames that wait would meet one filter or the other.
    if (!this.#has(BIT.ctrlVq) || this.#incoming.length > 0) return;
    const queue = this.#harness.queues[CONTROL]!;
    this.#next[CONTROL] = AREAS[CONTROL].base;
    const { bytes, apply } = this.#command();
    const asked = this.#place(CONTROL, bytes, false, 3);
    const room = this.#place(CONTROL, Uint8Array.of(0xee), true);
    if (asked === undefined || room === undefined || !this.#harness.add(CONTROL, [...asked, ...room])) return;
    this.#harness.notify(CONTROL);
    if (this.#harness.spoiled) return;
    await this.#harness.settle(() => queue.idle);
    queue.collect();
    const ack = this.#harness.ram.memory.readU8(room[0]!.address);
    if (ack !== (apply === undefined ? 1 : 0)) throw new Error(`a command is answered with ${ack}`);
    apply?.();
  }

  /** A command, and what is to become of it where it makes sense. */
  #command(): { bytes: Uint8Array; apply: (() => void) | undefined } {
    const random = this.#random;
    const filter = this.#filter;
    const answer = (bytes: readonly number[], sense: boolean, apply: () => void) => {
      const cut = random.oneIn(8) && bytes.length > 1;
      return {
        bytes: Uint8Array.from(cut ? bytes.slice(0, random.between(1, bytes.length - 1)) : bytes),
        apply: sense && !cut ? apply : undefined,
      };
    };
    switch (random.below(5)) {
      case 0: {
        const mode = random.below(8);
        const on = random.oneIn(2);
        const known = mode < 2 ? this.#has(BIT.ctrlRx) : mode < 6 && this.#has(BIT.ctrlRxExtra);
        return answer([0, mode, on ? 1 : 0], known, () => (filter.modes[mode] = on));
      }
      case 1: {
        const address = random.pick([MAC, OTHER]);
        return answer([1, 1, ...address], this.#has(BIT.ctrlMacAddr), () => (filter.mac = address));
      }
      case 2: {
        const unicast = random.pick([[], [OTHER], [OTHER, MAC]]);
        const multicast = random.pick([[], [GROUP]]);
        const bytes = [1, 0, unicast.length, 0, 0, 0, ...unicast.flatMap((each) => [...each])];
        bytes.push(multicast.length, 0, 0, 0, ...multicast.flatMap((each) => [...each]));
        return answer(bytes, this.#has(BIT.ctrlRx), () => {
          filter.unicast = unicast;
          filter.multicast = multicast;
        });
      }
      case 3: {
        const vlan = random.pick([random.below(4), random.below(0x10000)]);
        const remove = random.oneIn(3);
        const sense = this.#has(BIT.ctrlVlan) && vlan < 4096;
        return answer([2, remove ? 1 : 0, vlan & 0xff, vlan >>> 8], sense, () => {
          if (remove) filter.vlans.delete(vlan);
          else filter.vlans.add(vlan);
        });
      }
      default:
        return answer([random.between(6, 255), random.below(4), random.below(256)], false, () => undefined);
    }
  }

  /** To another device, as after a restore. */
  async #move(): Promise<void> {
    const { core } = this.#harness;
    await core.pause();
    const state = JSON.parse(JSON.stringify(core.save())) as unknown;
    this.#device.close();
    this.#device = this.#make();
    this.#harness.replace(this.#device);
    this.#harness.core.restore(state);
    this.#harness.core.resume();
    await this.#harness.settle();
    // What the device had it takes again, in the order of the state: by head.
    const heads = new Map(
      [...this.#harness.queues[RECEIVE]!.outstanding].map(([head, { segments }]) => [segments, head]),
    );
    this.#posted.sort((a, b) => heads.get(a.segments)! - heads.get(b.segments)!);
  }

  /** The cable, out and in: what waited for buffers is lost. */
  #pull(): void {
    this.#device.setLink(false);
    this.#incoming = [];
    this.#device.setLink(true);
  }

  /** A peer that announces what no frame is ends the connection, and nothing else. */
  async #breakProtocol(): Promise<void> {
    const random = this.#random;
    let ended = '';
    ours.onEnd = ({ kind }) => (ended = kind);
    // With a header of its own the length that stands in the stream is ours to choose.
    theirs.shut();
    ours.shut();
    const [one, other] = unixPair();
    ours.open(one, 'stream', this.#backend.vnetHeader);
    theirs.open(other, 'stream', false);
    this.#incoming = [];
    announce(theirs, random.pick([0, 0x7fff_ffff, 0xffff_ffff, 0x0002_0000]));
    this.#post(200);
    this.#harness.notify(RECEIVE);
    if (this.#harness.spoiled) return;
    await this.#harness.settle(() => ended !== '');
    if (ended !== 'protocol') throw new Error(`the connection ended otherwise: ${ended}`);
    theirs.shut();
    ours.shut();
    ours.onEnd = undefined;
    const [again, peer] = unixPair();
    ours.open(again, 'stream', this.#backend.vnetHeader);
    theirs.open(peer, 'stream', false);
    this.#harness.notify(RECEIVE);
    await this.#harness.settle();
  }
}

/** Four bytes that announce a frame. */
function announce(port: FramePort, length: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, length);
  writeSync(port.fd, bytes);
}

/** The network card: frames, offloads, filter and commands as a model has them, whatever the driver and the peer do. */
export const netTarget: FuzzTarget = { name: 'net', run: (random) => new Case(random).run() };
