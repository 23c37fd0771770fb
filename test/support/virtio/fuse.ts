/** A guest's side of virtio-fs that speaks raw FUSE, and devices on real folders to speak it to. */
import { mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { FsDevice, type FsOptions } from '../../../src/devices/fs/device.ts';
import { SharedFolder, type FolderOptions } from '../../../src/devices/fs/folder.ts';
import { OP } from '../../../src/devices/fs/protocol.ts';
import { IoRing, type IoEngine } from '../../../src/kvm/io-ring.ts';
import type { Buffer as Piece } from './driver-queue.ts';
import { Rig, type RigOptions } from './rig.ts';

const ERRORS = new Map(Object.entries(constants.errno).map(([name, number]) => [-number, name]));

/** An answer: its error by name, or its bytes behind the header. */
export type Answer = { readonly error: string | undefined; readonly body: Buffer };

export type Attributes = {
  readonly inode: bigint;
  readonly size: number;
  readonly blocks: number;
  readonly mtime: number;
  readonly mtimeNs: number;
  readonly atime: number;
  readonly atimeNs: number;
  readonly mode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
};
export type Entry = Attributes & {
  readonly node: bigint;
  readonly entryValid: number;
  readonly attrValid: number;
};
export type Opened = { readonly fh: bigint; readonly flags: number };

/** Numbers as a request has them: `u32` and `u64` in a row, and bytes. */
export function pack(...parts: readonly (number | bigint | string | Uint8Array)[]): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(`${part}\0`, 'latin1');
      if (typeof part === 'object') return part;
      const bytes = Buffer.alloc(typeof part === 'bigint' ? 8 : 4);
      if (typeof part === 'bigint') bytes.writeBigUInt64LE(BigInt.asUintN(64, part));
      else bytes.writeUInt32LE(part >>> 0);
      return bytes;
    }),
  );
}

export function attributesAt(body: Buffer, at: number): Attributes {
  const u32 = (offset: number): number => body.readUInt32LE(at + offset);
  const u64 = (offset: number): bigint => body.readBigUInt64LE(at + offset);
  return {
    inode: u64(0),
    size: Number(u64(8)),
    blocks: Number(u64(16)),
    atime: Number(u64(24)),
    mtime: Number(u64(32)),
    atimeNs: u32(48),
    mtimeNs: u32(52),
    mode: u32(60),
    links: u32(64),
    uid: u32(68),
    gid: u32(72),
  };
}

export function entryAt(body: Buffer, at = 0): Entry {
  return {
    node: body.readBigUInt64LE(at),
    entryValid: Number(body.readBigUInt64LE(at + 16)),
    attrValid: Number(body.readBigUInt64LE(at + 24)),
    ...attributesAt(body, at + 40),
  };
}

export const openedAt = (body: Buffer, at = 0): Opened => ({
  fh: body.readBigUInt64LE(at),
  flags: body.readUInt32LE(at + 8),
});

const ROOM = 8192;
const REQUESTS = 1;
export const ROOT = 1n;

export type FsFixtureOptions = Omit<FolderOptions, 'path'> & {
  readonly engine?: IoEngine;
  /** default a new one */
  readonly path?: string;
};

export type FsFixture = {
  readonly device: FsDevice;
  readonly folder: SharedFolder;
  readonly ring: IoRing;
  readonly path: string;
  readonly lines: string[];
  close(): void;
};

/** A device on a folder of its own. It does not poll. */
export function fsFixture(options: FsFixtureOptions = {}, more: Partial<FsOptions> = {}): FsFixture {
  const { engine, ...rest } = options;
  const made = options.path === undefined ? mkdtempSync(join(tmpdir(), 'tsvm-fs-')) : undefined;
  const path = options.path ?? made!;
  const folder = new SharedFolder({ ...rest, path });
  const ring = new IoRing(engine === undefined ? {} : { engine });
  const lines: string[] = [];
  const device = new FsDevice({
    name: 'fs0',
    tag: 'share',
    folder,
    ring,
    log: (line) => lines.push(line),
    poll: { limit: 0 },
    ...more,
  });
  return {
    device,
    folder,
    ring,
    path,
    lines,
    close: () => {
      device.close();
      ring.close();
      folder.close();
      if (made !== undefined) rmSync(made, { recursive: true, force: true });
    },
  };
}

export type ClientOptions = FsFixtureOptions & {
  readonly device?: Partial<FsOptions>;
  readonly rig?: Partial<RigOptions>;
  /** INIT as the first request; default true */
  readonly mounts?: boolean;
};

/** A hostile guest's kernel on a shared folder. */
export class FuseClient {
  readonly fixture: FsFixture;
  readonly rig: Rig;
  /** of the calls to come */
  uid = 0;
  gid = 0;
  #unique = 1n;

  static async mount(options: ClientOptions = {}): Promise<FuseClient> {
    const client = new FuseClient(options);
    if (options.mounts !== false) await client.init();
    return client;
  }

  private constructor(options: ClientOptions) {
    const { device, rig, ...folder } = options;
    this.fixture = fsFixture(folder, device);
    this.rig = new Rig(this.fixture.device, { transport: 'pci', memory: 'one window', ...rig });
    this.rig.start();
  }

  get path(): string {
    return this.fixture.path;
  }

  /** A request's bytes. */
  header(opcode: number, node: bigint, body: Uint8Array, length = 40 + body.length): Buffer {
    return Buffer.concat([pack(length, opcode, this.#unique++, node, this.uid, this.gid, 1, 0), body]);
  }

  /** Sends bytes as they are; the answer's, and how many of them the device has written. */
  async raw(pieces: readonly Piece[], queue = REQUESTS): Promise<{ reply: Buffer; written: number }> {
    this.rig.buffers.clear();
    const { reply, written } = await this.rig.ask(this.rig.queue(queue), pieces);
    return { reply: Buffer.from(reply), written };
  }

  /** @param room bytes for the answer behind its header */
  async ask(
    opcode: number,
    node: bigint,
    body: Uint8Array = new Uint8Array(0),
    room = ROOM,
  ): Promise<Answer> {
    const unique = this.#unique;
    const { reply, written } = await this.raw([
      { bytes: this.header(opcode, node, body) },
      { room: 16 },
      ...(room > 0 ? [{ room }] : []),
    ]);
    const length = reply.readUInt32LE(0);
    const error = reply.readInt32LE(4);
    if (reply.readBigUInt64LE(8) !== unique) throw new Error('the answer to another request');
    if (length !== written) throw new Error(`an answer of ${length} bytes in ${written}`);
    if (error !== 0 && length !== 16) throw new Error('an error with more behind it');
    return {
      error: error === 0 ? undefined : (ERRORS.get(error) ?? String(error)),
      body: reply.subarray(16, length),
    };
  }

  /** As {@link ask}, for what has to succeed. */
  async must(opcode: number, node: bigint, body?: Uint8Array, room?: number): Promise<Buffer> {
    const answer = await this.ask(opcode, node, body, room);
    if (answer.error !== undefined) throw new Error(`opcode ${opcode}: ${answer.error}`);
    return answer.body;
  }

  /** For what has to fail: the error's name. */
  async fails(opcode: number, node: bigint, body?: Uint8Array, room?: number): Promise<string> {
    return (await this.ask(opcode, node, body, room)).error ?? 'no error';
  }

  init(flags = 0xffff_ffff, minor = 38): Promise<Buffer> {
    return this.must(OP.init, 0n, pack(7, minor, 1 << 20, flags, 0xffff_ffff, Buffer.alloc(44)));
  }

  async lookup(node: bigint, name: string): Promise<Entry> {
    return entryAt(await this.must(OP.lookup, node, pack(name)));
  }

  /** Looks a path up, name by name from the root. */
  async walk(path: string): Promise<Entry> {
    let entry: Entry | undefined;
    for (const name of path.split('/')) entry = await this.lookup(entry?.node ?? ROOT, name);
    return entry!;
  }

  async getattr(node: bigint): Promise<Attributes> {
    return attributesAt(await this.must(OP.getattr, node, pack(0, 0, 0n)), 16);
  }

  async open(node: bigint, flags = 0): Promise<Opened> {
    return openedAt(await this.must(OP.open, node, pack(flags, 0)));
  }

  async opendir(node: bigint): Promise<Opened> {
    return openedAt(await this.must(OP.opendir, node, pack(0, 0)));
  }

  async create(node: bigint, name: string, flags = READ_WRITE, mode = 0o644): Promise<Entry & Opened> {
    const body = await this.must(OP.create, node, pack(flags, mode, 0, 0, name));
    return { ...entryAt(body), ...openedAt(body, 128) };
  }

  async read(node: bigint, fh: bigint, offset: number | bigint, size: number): Promise<Buffer> {
    return this.must(OP.read, node, readBody(fh, offset, size), size);
  }

  async write(
    node: bigint,
    fh: bigint,
    offset: number | bigint,
    data: Uint8Array | string,
    flags = 0,
  ): Promise<number> {
    return (await this.must(OP.write, node, writeBody(fh, offset, Buffer.from(data), flags))).readUInt32LE(0);
  }

  async release(node: bigint, fh: bigint): Promise<void> {
    await this.must(OP.release, node, pack(fh, 0, 0, 0n));
  }

  /** FORGET on the queue that it goes to, without an answer. */
  async forget(node: bigint, lookups: number | bigint): Promise<void> {
    await this.raw([{ bytes: this.header(OP.forget, node, pack(BigInt(lookups))) }], 0);
  }

  /** All entries of a folder: names, with the nodes that came with them. */
  async list(
    node: bigint,
    opcode: number = OP.readdir,
    room = 4096,
  ): Promise<Map<string, bigint | undefined>> {
    const { fh } = await this.opendir(node);
    const names = new Map<string, bigint | undefined>();
    for (let offset = 0n; ;) {
      const body = await this.must(opcode, node, pack(fh, offset, room, 0, 0n, 0, 0), room);
      if (body.length === 0) break;
      for (const entry of direntsOf(body, opcode === OP.readdirplus)) {
        if (names.has(entry.name)) throw new Error(`${entry.name} comes twice`);
        names.set(entry.name, entry.node);
        offset = entry.offset;
      }
    }
    await this.must(OP.releasedir, node, pack(fh, 0, 0, 0n));
    return names;
  }

  close(): void {
    void this.rig.core.reset();
    this.fixture.close();
  }
}

const READ_WRITE = 2;

export const readBody = (fh: bigint, offset: number | bigint, size: number): Buffer =>
  pack(fh, BigInt(offset), size, 0, 0n, 0, 0);

export const writeBody = (
  fh: bigint,
  offset: number | bigint,
  data: Uint8Array,
  flags = 0,
  how = 0,
): Buffer => pack(fh, BigInt(offset), data.length, how, 0n, flags, 0, data);

export type Dirent = {
  readonly name: string;
  readonly offset: bigint;
  readonly type: number;
  readonly inode: bigint;
  /** with READDIRPLUS, where it was given */
  readonly node: bigint | undefined;
};

export function direntsOf(body: Buffer, plus: boolean): Dirent[] {
  const list: Dirent[] = [];
  for (let at = 0; at < body.length;) {
    const node = plus ? body.readBigUInt64LE(at) : 0n;
    if (plus) at += 128;
    const length = body.readUInt32LE(at + 16);
    list.push({
      inode: body.readBigUInt64LE(at),
      offset: body.readBigUInt64LE(at + 8),
      type: body.readUInt32LE(at + 20),
      name: body.toString('latin1', at + 24, at + 24 + length),
      node: node === 0n ? undefined : node,
    });
    at += (24 + length + 7) & ~7;
  }
  return list;
}
