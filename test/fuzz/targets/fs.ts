import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FsDevice } from '../../../src/devices/fs/device.ts';
import { SharedFolder, type FsCache } from '../../../src/devices/fs/folder.ts';
import { OP } from '../../../src/devices/fs/protocol.ts';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import { pack } from '../../support/virtio/fuse.ts';
import type { FuzzSegment } from '../chain-builder.ts';
import { BUFFERS, DeviceHarness } from '../device-harness.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

const OPCODES = Object.values(OP);
const NAMES = [
  'file',
  'folder',
  'link',
  'out',
  'fifo',
  'new',
  'new2',
  'inner',
  '..',
  '.',
  '',
  'a/b',
  '../canary',
  '/etc/passwd',
  'n'.repeat(255),
  'n'.repeat(256),
];
const CANARY = 'nobody may change this';
const ROOM = 0x800;
const PART = 0x1000;

/** What all cases have: a place with room for a folder of each, and I/O. */
let place: string | undefined;
let ring: IoRing | undefined;

function outside(): string {
  if (place !== undefined) return place;
  const base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
  const made = (place = mkdtempSync(join(base, 'tsvm-fuzz-fs-')));
  process.on('exit', () => rmSync(made, { recursive: true, force: true }));
  writeFileSync(join(made, 'canary'), CANARY);
  return made;
}

/** A new folder to share, with one of everything. */
function tree(top: string): string {
  const share = join(top, 'share');
  rmSync(share, { recursive: true, force: true });
  mkdirSync(join(share, 'folder'), { recursive: true });
  writeFileSync(join(share, 'file'), 'contents of the file');
  writeFileSync(join(share, 'folder/inner'), 'inner');
  symlinkSync('../canary', join(share, 'link'));
  symlinkSync(top, join(share, 'out'));
  linkSync(join(share, 'file'), join(share, 'folder/other'));
  return share;
}

function checkOutside(top: string): void {
  if (readFileSync(join(top, 'canary'), 'utf8') !== CANARY) throw new Error('the canary was changed');
  const names = readdirSync(top);
  if (names.length !== 2) throw new Error(`outside of the share there are ${names.join(', ')}`);
}

/** What the driver was given: numbers to use again, now and then when they are no good any more. */
class Known {
  readonly nodes: bigint[] = [1n];
  readonly handles: bigint[] = [0n];
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  node(): bigint {
    const random = this.#random;
    if (random.oneIn(20)) return random.pick([0n, 2n, 77n, 2n ** 32n, 2n ** 64n - 1n]);
    return random.pick(this.nodes);
  }

  handle(): bigint {
    const random = this.#random;
    return random.oneIn(20) ? random.pick([0n, 5n, 2n ** 32n, 2n ** 64n - 1n]) : random.pick(this.handles);
  }

  /** Takes down what an answer may have given. */
  learn(opcode: number, body: Buffer): void {
    const entries: readonly number[] = [OP.lookup, OP.mkdir, OP.mknod, OP.symlink, OP.link, OP.create];
    if (entries.includes(opcode) && body.length >= 128) this.nodes.push(body.readBigUInt64LE(0));
    if (opcode === OP.create && body.length >= 144) this.handles.push(body.readBigUInt64LE(128));
    if ((opcode === OP.open || opcode === OP.opendir) && body.length >= 16) {
      this.handles.push(body.readBigUInt64LE(0));
    }
  }
}

const number64 = (random: Random): bigint =>
  random.pick([0n, 1n, BigInt(random.below(0x4000)), 2n ** 31n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n]);

const flagsOf = (random: Random): number =>
  random.pick([0, 1, 2, 0o1002, 0o2001, 0o102, 0o302, 3, random.below(2 ** 31)]);

/** What stands behind a request's header. */
function bodyOf(random: Random, known: Known, opcode: number): Buffer {
  const name = (): string => random.pick(NAMES);
  const fh = (): bigint => known.handle();
  const offset = (): bigint => (random.oneIn(2) ? BigInt(random.below(100)) : number64(random));
  const word = (): number => random.pick([0, 1, random.below(4096), random.below(2 ** 32)]);
  const size = random.pick([0, 16, 100, random.below(ROOM)]);
  switch (opcode) {
    case OP.init:
      return pack(7, random.pick([38, 31, 30, 99]), word(), word(), word(), Buffer.alloc(44));
    case OP.lookup:
    case OP.unlink:
    case OP.rmdir:
      return pack(name());
    case OP.removexattr:
      return pack(random.pick(['user.a', 'user.b', 'security.x', name()]));
    case OP.forget:
      return pack(number64(random));
    case OP.batchForget:
      return pack(random.pick([2, word()]), 0, known.node(), number64(random), known.node(), 1n);
    case OP.getattr:
      return pack(random.below(2), 0, fh());
    case OP.setattr: {
      const bits = random.oneIn(4) ? random.below(4096) : 1 << random.below(12);
      // A file of 8 EiB is none of what is to be found here.
      const length = BigInt(random.below(0x10_0000));
      const times = [number64(random), number64(random), 0n, random.below(2 ** 30), word(), 0];
      return pack(bits, 0, fh(), length, 0n, ...times, random.below(0o10000), 0, word(), word(), 0);
    }
    case OP.symlink:
      return pack(name(), random.pick(['target', '/etc/passwd', 'x'.repeat(400), '']));
    case OP.mknod:
      return pack(
        random.pick([0o100644, 0o010600, 0o140600, 0o020600, 0o060600, word()]),
        word(),
        0,
        0,
        name(),
      );
    case OP.mkdir:
      return pack(random.below(0o10000), 0, name());
    case OP.rename:
      return pack(known.node(), name(), name());
    case OP.rename2:
      return pack(known.node(), random.pick([0, 1, 2, 3, 4, word()]), 0, name(), name());
    case OP.link:
      return pack(known.node(), name());
    case OP.open:
    case OP.opendir:
      return pack(flagsOf(random), random.below(2));
    case OP.create:
      return pack(flagsOf(random), random.below(0o10000), 0, random.below(2), name());
    case OP.read:
    case OP.readdir:
    case OP.readdirplus:
      return pack(fh(), offset(), random.oneIn(10) ? word() : size, 0, 0n, flagsOf(random), 0);
    case OP.write: {
      const small = BigInt(random.below(0x10_0000));
      const data = random.fill(new Uint8Array(random.below(300)));
      const length = random.oneIn(10) ? word() : data.length;
      return pack(
        fh(),
        random.oneIn(30) ? number64(random) : small,
        length,
        random.below(8),
        0n,
        flagsOf(random),
        0,
        data,
      );
    }
    case OP.release:
    case OP.releasedir:
      return pack(fh(), 0, 0, 0n);
    case OP.fsync:
    case OP.fsyncdir:
      return pack(fh(), random.below(2), 0);
    case OP.setxattr: {
      const value = random.fill(new Uint8Array(random.below(100)));
      return pack(
        random.oneIn(10) ? word() : value.length,
        random.below(4),
        random.pick(['user.a', 'user.b', 'trusted.x']),
        value,
      );
    }
    case OP.getxattr:
      return pack(
        random.pick([0, 10, 200, word()]),
        0,
        random.pick(['user.a', 'user.b', 'security.capability']),
      );
    case OP.listxattr:
      return pack(random.pick([0, 10, 200, word()]), 0);
    case OP.fallocate: {
      const length = BigInt(random.below(0x10_0000));
      return pack(
        fh(),
        BigInt(random.below(0x10_0000)),
        random.oneIn(30) ? 2n ** 63n : length,
        random.pick([0, 1, 3, 16, 17, word()]),
        0,
      );
    }
    case OP.lseek:
      return pack(fh(), offset(), random.pick([3, 4, word()]), 0);
    case OP.copyFileRange:
      return pack(
        fh(),
        offset(),
        known.node(),
        fh(),
        BigInt(random.below(0x10000)),
        BigInt(random.below(0x10000)),
        0n,
      );
    default:
      return Buffer.from(random.fill(new Uint8Array(random.below(64))));
  }
}

/** Cuts a run of bytes into segments. */
function cut(random: Random, at: number, length: number, writable: boolean, most: number): FuzzSegment[] {
  const list: FuzzSegment[] = [];
  let left = length;
  let address = at;
  while (left > 0) {
    const here = list.length + 1 < most && random.oneIn(3) ? random.between(1, left) : left;
    list.push({ address, length: here, writable });
    address += here;
    left -= here;
  }
  return list;
}

type Sent = {
  readonly opcode: number;
  readonly unique: bigint;
  readonly replyAt: number;
  readonly spoiled: boolean;
};

class Session {
  readonly harness: DeviceHarness;
  readonly #random: Random;
  readonly #known: Known;
  #unique = 1n;

  constructor(random: Random, harness: DeviceHarness) {
    this.#random = random;
    this.#known = new Known(random);
    this.harness = harness;
  }

  /** Makes a request available in one of two places; undefined where there is no room for it. */
  send(part: number, opcode: number): Sent | undefined {
    const random = this.#random;
    const { harness } = this;
    const silent = opcode === OP.forget || opcode === OP.batchForget;
    const queue = silent && !random.oneIn(8) ? 0 : 1;
    const unique = this.#unique++;
    const body = bodyOf(random, this.#known, opcode);
    const spoiled = random.oneIn(12);
    const length = 40 + body.length;
    const bytes = Buffer.concat([
      pack(spoiled && random.oneIn(2) ? random.below(2 ** 32) : length, opcode, unique),
      pack(this.#known.node(), random.pick([0, 1000]), random.pick([0, 1000]), 1, 0),
      body,
    ]).subarray(0, spoiled && random.oneIn(2) ? random.between(1, length) : length);
    if (spoiled && random.oneIn(2)) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
    const at = BUFFERS.base + part * PART;
    const replyAt = at + ROOM;
    harness.ram.memory.write(at, bytes);
    const room = silent ? 0 : random.pick([ROOM, ROOM, ROOM, 16, 15, random.below(ROOM)]);
    const most = Math.max(1, Math.floor(harness.queues[queue]!.layout.size / 2));
    const segments = [
      ...cut(random, at, bytes.length, false, most),
      ...cut(random, replyAt, room, true, most),
    ];
    if (!harness.add(queue, segments, random.oneIn(64))) return undefined;
    harness.notify(queue);
    return { opcode, unique, replyAt, spoiled };
  }

  /** @throws Error for an answer that is none */
  check(sent: readonly Sent[]): void {
    for (const queue of this.harness.queues) {
      for (const { written, chain } of queue?.collect() ?? []) {
        if (written === 0 || chain.faulty) continue;
        const at = chain.segments.find(({ writable }) => writable)!.address;
        const reply = Buffer.from(this.harness.ram.memory.read(at, written));
        if (written < 16) throw new Error(`an answer of ${written} bytes`);
        if (reply.readUInt32LE(0) !== written)
          throw new Error(`an answer of ${reply.readUInt32LE(0)} in ${written}`);
        const error = reply.readInt32LE(4);
        if (error > 0 || error < -133) throw new Error(`the error ${error}`);
        if (error !== 0 && written !== 16) throw new Error('an error with more behind it');
        const request = sent.find(({ replyAt }) => replyAt === at);
        if (request === undefined || request.spoiled) continue;
        if (reply.readBigUInt64LE(8) !== request.unique) throw new Error('the answer to another request');
        if (error === 0) this.#known.learn(request.opcode, reply.subarray(16));
      }
    }
  }
}

/** What the process has open, by number. */
function openFiles(): Map<string, string> {
  const files = new Map<string, string>();
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      files.set(fd, readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // the one that has listed them
    }
  }
  return files;
}

async function run(random: Random): Promise<void> {
  const top = outside();
  const io = (ring ??= new IoRing());
  const share = tree(top);
  const before = openFiles();
  const folder = new SharedFolder({
    path: share,
    readOnly: random.oneIn(8),
    cache: random.pick<FsCache>(['auto', 'auto', 'none', 'always']),
    ...(random.oneIn(4) && { uid: 1000, gid: 1000 }),
  });
  const lines: string[] = [];
  const device = new FsDevice({
    name: 'fs0',
    tag: 'share',
    folder,
    ring: io,
    log: (line) => lines.push(line),
    queueSize: 16,
    poll: { limit: 0 },
  });
  const harness = new DeviceHarness(random, device);
  try {
    harness.start(0, [0, 1]);
    const session = new Session(random, harness);
    const requests = random.between(1, 40);
    for (let i = 0; i < requests && !harness.failed; i++) {
      const sent: Sent[] = [];
      const together = random.oneIn(4) ? 2 : 1;
      for (let part = 0; part < together; part++) {
        const opcode =
          i === 0 && part === 0 ? OP.init : random.oneIn(40) ? random.below(60) : random.pick(OPCODES);
        const one = session.send(part, opcode);
        if (one !== undefined) sent.push(one);
      }
      // Until nothing is under way any more.
      await harness.core.pause();
      harness.core.resume();
      await harness.settle();
      await harness.core.pause();
      harness.core.resume();
      harness.ram.checkGuards();
      // What becomes of requests is open then.
      if (harness.spoiled) break;
      session.check(sent);
    }
    checkOutside(top);
  } finally {
    await harness.core.reset();
    device.close();
    folder.close();
  }
  const ours = (path: string): boolean => path.startsWith(top) || path.endsWith('/fd');
  const left = [...openFiles()].filter(([fd, path]) => ours(path) && !before.has(fd));
  if (left.length > 0) throw new Error(`left open: ${left.map(([, path]) => path).join(', ')}`);
}

/** The file system device on a real folder: every request is answered once, and nothing outside is touched. */
export const fsTarget: FuzzTarget = { name: 'fs', run };
