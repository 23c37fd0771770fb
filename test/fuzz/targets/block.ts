import {
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockDevice } from '../../../src/devices/block/device.ts';
import { GuestBuffers } from '../../../src/kvm/guest-buffers.ts';
import { IoRing, type IoEngine } from '../../../src/kvm/io-ring.ts';
import type { Disk, DiskCache } from '../../../src/storage/disk.ts';
import { openRaw } from '../../../src/storage/raw.ts';
import { BlockModel, type ModelAnswer } from '../block-model.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { BUFFERS, DeviceHarness, END } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import { Random } from '../random.ts';

const SECTOR = 512;
const SECTORS = 32;
const SLICE = 4;
const SERIAL = 'fuzzed';
const T = { in: 0, out: 1, flush: 4, getId: 8, discard: 11, writeZeroes: 13 } as const;
const F = { blkSize: 6, flush: 9, configWce: 11, discard: 13, writeZeroes: 14 } as const;
/** where the driver chooses the cache mode */
const WRITEBACK = 32;
const RING_PAGE = 0x1000;

/** Contents of disks and of writes are pieces of this. */
const noise = new Random(3).fill(new Uint8Array(0x10000));

const piece = (random: Random, length: number): Uint8Array =>
  noise.subarray(random.below(noise.length - length)).slice(0, length);

/** A disk of the host that all cases of its kind use; each begins with the same content. */
type Host = { readonly disk: Disk; readonly ring: IoRing; readonly fd: number };

const rings = new Map<IoEngine, IoRing>();
const hosts = new Map<string, Host>();

function ringOf(engine: IoEngine): IoRing {
  const there = rings.get(engine);
  if (there !== undefined) return there;
  let ring: IoRing;
  try {
    ring = new IoRing({ engine });
  } catch {
    ring = new IoRing({ engine: 'threads' });
  }
  rings.set(engine, ring);
  return ring;
}

function hostOf(engine: IoEngine, parent: string, cache: DiskCache, readOnly: boolean): Host {
  const key = [engine, parent, cache, readOnly].join();
  const there = hosts.get(key);
  if (there !== undefined) return there;
  const folder = mkdtempSync(join(parent, 'tsvm-fuzz-block-'));
  const path = join(folder, 'disk.raw');
  writeFileSync(path, new Uint8Array(SECTORS * SECTOR));
  const ring = ringOf(engine);
  const host = { ring, disk: openRaw(ring, path, { cache, readOnly }), fd: openSync(path, 'r+') };
  // it lives as long as it is open
  rmSync(folder, { recursive: true });
  hosts.set(key, host);
  return host;
}

const MEMORY = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

function pickHost(random: Random): Host {
  const engine = random.pick(['io_uring', 'io_uring', 'threads'] as const);
  // A real file system syncs and punches holes in its own time: seldom, but for all of its ways.
  if (random.oneIn(64)) {
    return hostOf(engine, tmpdir(), random.pick(['writeback', 'none', 'unsafe'] as const), false);
  }
  return hostOf(engine, MEMORY, 'writeback', random.oneIn(16));
}

type Sent = { readonly segments: readonly FuzzSegment[]; readonly answer: ModelAnswer };

class Case {
  readonly #random: Random;
  readonly #host: Host;
  readonly #harness: DeviceHarness;
  readonly #image = new Uint8Array(END);
  #device: BlockDevice;
  #model: BlockModel;
  /** room for buffers of this round */
  #next: number = BUFFERS.base;

  constructor(random: Random) {
    this.#random = random;
    this.#host = pickHost(random);
    this.#device = this.#newDevice();
    this.#harness = new DeviceHarness(random, this.#device);
    this.#model = new BlockModel(new Uint8Array(0), this.#host.disk.readOnly, SERIAL);
  }

  async run(): Promise<void> {
    const random = this.#random;
    await this.#begin();
    this.#start();
    for (let round = random.between(1, 4); round > 0; round--) {
      if (random.oneIn(16)) await this.#resize();
      if (random.oneIn(8)) this.#device.config.driverWrite(WRITEBACK, 1, random.pick([0, 1, 1, 255]));
      const sent = this.#send();
      this.#harness.ram.copyTo(this.#image);
      if (random.oneIn(16)) {
        await this.#resetMidway();
        continue;
      }
      const paused = random.oneIn(8);
      if (paused) await this.#harness.core.pause();
      this.#harness.notify(0);
      if (random.oneIn(16) && !this.#harness.spoiled) await this.#move();
      else if (paused) this.#harness.core.resume();
      await this.#settle();
      this.#harness.ram.checkGuards();
      if (this.#harness.spoiled) {
        this.#harness.spoiled = false;
        await this.#resetMidway();
      } else this.#check(sent);
    }
    await this.#end();
  }

  /** The same disk for each case. */
  async #begin(): Promise<void> {
    const { disk, fd } = this.#host;
    const content = piece(this.#random, SECTORS * SECTOR);
    if (!disk.readOnly) await disk.resize(content.length);
    writeSync(fd, content, 0, content.length, 0);
    this.#model = new BlockModel(content, disk.readOnly, SERIAL);
    this.#device.resized();
  }

  async #end(): Promise<void> {
    const reset = this.#harness.core.reset();
    this.#host.disk.drain();
    await reset;
    this.#device.close();
  }

  #newDevice(): BlockDevice {
    const { disk, ring } = this.#host;
    return new BlockDevice({
      name: 'block0',
      disk,
      buffers: (memory) => new GuestBuffers(ring, memory),
      log: (line) => {
        throw new Error(`the host has failed a request: ${line}`);
      },
      serial: SERIAL,
      poll: { limit: 0 },
    });
  }

  #start(): void {
    const random = this.#random;
    let features = this.#device.features.low;
    if (random.oneIn(4)) features &= ~(1 << random.pick(Object.values(F)));
    this.#model.discards = ((features >>> F.discard) & 1) === 1;
    this.#model.zeroes = ((features >>> F.writeZeroes) & 1) === 1;
    this.#harness.start(features, [0]);
  }

  /** In the middle of whatever there is; what became of it is on the disk. */
  async #resetMidway(): Promise<void> {
    this.#harness.notify(0);
    const reset = this.#harness.core.reset();
    this.#host.disk.drain();
    await reset;
    this.#harness.ram.checkGuards();
    this.#model.content = this.#content();
    this.#harness.spoiled = false;
    this.#next = BUFFERS.base;
    this.#start();
  }

  async #move(): Promise<void> {
    const before = this.#device;
    const mode = before.config.get('writeback');
    // What is in flight is told to whoever made the requests: there is a new one on this disk from here on.
    this.#host.disk.drain();
    this.#device = this.#newDevice();
    await this.#harness.move(this.#device);
    before.close();
    if (this.#device.config.get('writeback') !== mode) throw new Error('the cache mode is not restored');
  }

  async #resize(): Promise<void> {
    const { disk } = this.#host;
    if (disk.readOnly) return;
    const sectors = this.#random.between(SECTORS / 2, 2 * SECTORS);
    await disk.resize(sectors * SECTOR);
    this.#device.resized();
    this.#model.resize(sectors * SECTOR);
  }

  async #settle(): Promise<void> {
    const queue = this.#harness.queues[0]!;
    for (let turn = 0; turn < 3; turn++) {
      await this.#harness.settle();
      this.#host.disk.drain();
    }
    if (!this.#harness.spoiled && !queue.idle) throw new Error('requests are not answered');
  }

  /** Makes requests available, on sectors of their own where there are several. */
  #send(): Sent[] {
    const random = this.#random;
    const sent: Sent[] = [];
    this.#next = BUFFERS.base;
    const count = random.between(1, 6);
    for (let i = 0; i < count; i++) {
      const first = count === 1 ? random.below(SECTORS - SLICE) : SLICE * i;
      const bytes = request(random, first, this.#model.content.length / SECTOR);
      const segments = this.#place(bytes.readable, bytes.room);
      if (segments === undefined) break;
      if (!this.#harness.add(0, segments, random.oneIn(64))) break;
      if (!this.#harness.spoiled) {
        const room = segments.reduce((sum, { length, writable }) => sum + (writable ? length : 0), 0);
        sent.push({ segments, answer: this.#model.serve(bytes.readable, room) });
      }
    }
    return sent;
  }

  /** Puts a request into memory in pieces. */
  #place(readable: Uint8Array, room: number): FuzzSegment[] | undefined {
    const random = this.#random;
    if (this.#next + readable.length + room > BUFFERS.end) return undefined;
    const base = this.#next;
    this.#next += readable.length + room;
    this.#harness.ram.memory.write(base, readable);
    return [...cut(random, base, readable.length, false), ...cut(random, base + readable.length, room, true)];
  }

  #content(): Uint8Array {
    const { fd } = this.#host;
    const bytes = new Uint8Array(Math.ceil(fstatSync(fd).size / SECTOR) * SECTOR);
    readSync(fd, bytes, 0, bytes.length, 0);
    return bytes;
  }

  #check(sent: readonly Sent[]): void {
    const image = this.#image;
    for (const { segments, answer } of sent) {
      const { data, status } = answer;
      const room = segments.filter(({ writable }) => writable);
      let at = 0;
      for (const { address, length } of room) {
        image.set(data.subarray(at, at + length), address);
        at += length;
      }
      const last = room.at(-1);
      if (last !== undefined) image[last.address + last.length - 1] = status;
    }
    image.set(this.#harness.ram.memory.read(0, RING_PAGE), 0);
    this.#harness.ram.check(image);
    const used = this.#harness.queues[0]!.collect();
    if (used.length !== sent.length) throw new Error(`${used.length} answers to ${sent.length} requests`);
    for (const { written, chain } of used) {
      const expected = sent.find(({ segments }) => segments === chain.segments)!.answer.written;
      if (written !== expected) throw new Error(`${written} bytes are said to be written of ${expected}`);
    }
    this.#model.check(this.#content());
  }
}

/** Four pieces at the most: an indirect table of the chain builder has room for eight. */
function cut(random: Random, base: number, size: number, writable: boolean): FuzzSegment[] {
  const cuts = new Set([0, size]);
  for (let i = random.pick([0, 1, 1, 2]); i > 0 && size > 1; i--) cuts.add(random.between(1, size - 1));
  // as drivers do it: the header and the status in pieces of their own
  if (random.oneIn(2)) cuts.add(writable ? Math.max(0, size - 1) : Math.min(size, 16));
  const sorted = [...cuts].sort((a, b) => a - b);
  return sorted.slice(1).map((end, i) => ({
    address: base + sorted[i]!,
    length: end - sorted[i]!,
    writable,
  }));
}

/**
 * A request on at most SLICE sectors from `first` on, as what overlaps in flight has no order; once in a while with
 * something wrong.
 */
function request(
  random: Random,
  first: number,
  capacity: number,
): { readonly readable: Uint8Array; readonly room: number } {
  const type = random.oneIn(32)
    ? random.pick([2, 3, 5, 10, 12, 14, 0xffff_ffff, random.word()])
    : random.pick([T.in, T.in, T.in, T.out, T.out, T.out, T.flush, T.getId, T.discard, T.writeZeroes]);
  const fault = random.oneIn(6) ? random.below(10) : -1;
  const skip = random.below(SLICE);
  let sector = BigInt(first + skip);
  let sectors = random.between(fault === 0 ? 0 : 1, SLICE - skip);
  if (fault === 1) {
    sector = random.pick([
      BigInt(capacity),
      BigInt(capacity - 1),
      BigInt(capacity + 1),
      (1n << 64n) - 1n,
      (1n << 64n) - BigInt(random.below(64)),
      (1n << 55n) + sector,
      (1n << 53n) + 1n,
      1n << BigInt(random.between(20, 63)),
    ]);
    if (sector < BigInt(capacity)) sectors = random.pick([2, capacity]);
  }
  let room = 1;
  let data: Uint8Array = new Uint8Array(0);
  if (type === T.in) room += SECTOR * Math.min(sectors, SLICE);
  else if (type === T.out) data = piece(random, SECTOR * Math.min(sectors, SLICE));
  else if (type === T.getId) room += 20;
  else if (type === T.discard || type === T.writeZeroes) {
    data = rangeList(random, type, sector, sectors, fault);
  }
  if (fault === 2) room += random.pick([1, 7, 511]);
  if (fault === 3) room = random.pick([0, 0, 1, random.between(1, room)]);
  if (fault === 4) data = piece(random, random.below((SLICE - skip) * SECTOR + 1));
  const readable = new Uint8Array(16 + data.length);
  const view = new DataView(readable.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, random.word(), true);
  view.setBigUint64(8, sector, true);
  readable.set(data, 16);
  // a header that is cut short, or all the driver says is missing
  return { readable: fault === 5 ? readable.subarray(0, random.below(17)) : readable, room };
}

/** The segments of a discard or write-zeroes request, which do not overlap. */
function rangeList(random: Random, type: number, sector: bigint, sectors: number, fault: number): Uint8Array {
  const list: { sector: bigint; sectors: number; flags: number }[] = [];
  for (let left = sectors, at = sector; left > 0 || list.length === 0;) {
    const length = left > 0 ? random.between(1, left) : 0;
    const flags = type === T.writeZeroes ? random.below(2) : 0;
    list.push({ sector: BigInt.asUintN(64, at), sectors: length, flags });
    at += BigInt(length);
    left -= length;
    if (length === 0) break;
  }
  const any = random.pick(list);
  if (fault === 6) any.flags ^= 1 << random.below(32);
  if (fault === 7) any.sectors = random.pick([0xffff_ffff, 0x8000_0000, 1 << 22, 0]);
  if (fault === 8) for (let i = random.below(40); i > 0; i--) list.push({ ...any, sectors: 0 });
  const bytes = new Uint8Array(16 * list.length);
  const view = new DataView(bytes.buffer);
  list.forEach((each, i) => {
    view.setBigUint64(16 * i, each.sector, true);
    view.setUint32(16 * i + 8, each.sectors, true);
    view.setUint32(16 * i + 12, each.flags >>> 0, true);
  });
  return fault === 9 ? bytes.subarray(0, random.below(bytes.length)) : bytes;
}

/** Open descriptors go with the process; for a test that wants them gone before. */
export async function closeBlockHosts(): Promise<void> {
  for (const { disk, fd } of hosts.values()) {
    await disk.close();
    closeSync(fd);
  }
  hosts.clear();
  for (const ring of rings.values()) ring.close();
  rings.clear();
}

/** A block device on real files against a model of the disk: answers, memory and content, byte by byte. */
export const blockTarget: FuzzTarget = {
  name: 'block',
  run: (random) => new Case(random).run(),
};
