/**
 * A host file in memory, under the qcow2 code in place of the ring: completes requests out of order, fails them on
 * demand, and knows what a power cut would leave of it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { IO, type IoOperation, type IoOwner } from '../../../src/kvm/io-ring.ts';
import { IoVector } from '../../../src/kvm/io-vector.ts';
import type { HostFile } from '../../../src/storage/qcow2/host-file.ts';
import { Random } from '../../fuzz/random.ts';

const SECTOR = 512;
const EFBIG = 27;

type Pending = {
  readonly operation: IoOperation;
  readonly offset: number;
  readonly length: number;
  readonly vector: IoVector;
  readonly owner: IoOwner;
  readonly cookie: number;
  /** completions before this was queued */
  readonly before: number;
};

/** What a sector was written to, and when that was complete; not yet synced. */
type Version = { readonly bytes: Uint8Array; readonly completedAt: number };

export type SimOptions = {
  readonly random?: Random;
  readonly readOnly?: boolean;
  /** told of each request before it is carried out; returns an errno to fail it with */
  readonly fault?: (operation: IoOperation, offset: number, length: number) => number;
  /** Writes behind this place fail with EFBIG; default 2 GiB */
  readonly limit?: number;
  /** whether what a power cut leaves is kept account of */
  readonly track?: boolean;
};

/** Registered memory is known to all simulated files, as buffers of one ring are. */
const memory: (Uint8Array | undefined)[] = [];
const freeNumbers: number[] = [];

export const registerMemory = (bytes: Uint8Array): number => {
  const number = freeNumbers.pop() ?? memory.length;
  memory[number] = bytes;
  return number;
};

export const unregisterMemory = (number: number): void => {
  memory[number] = undefined;
  freeNumbers.push(number);
};

export class SimFile implements HostFile {
  readonly path: string;
  readonly readOnly: boolean;
  readonly grows = true;
  #bytes: Uint8Array;
  #size: number;
  readonly #random: Random | undefined;
  readonly #fault: SimOptions['fault'];
  readonly #track: boolean;
  readonly #limit: number;
  #queued: Pending[] = [];
  #inFlight: Pending[] = [];
  #completions = 0;
  #scheduled = false;
  /** as after the last sync */
  #stable: Uint8Array;
  readonly #registered = new Set<number>();
  readonly #versions = new Map<number, Version[]>();
  /** for tests of what I/O is done */
  readonly counts = { read: 0, write: 0, sync: 0, punch: 0, submits: 0 };
  closed = false;
  /** Keeps the oldest request from being carried out by {@link step}. */
  holdFirst = false;
  /** of the writes beyond the limit */
  furthest = 0;

  constructor(path: string, bytes: Uint8Array, options: SimOptions = {}) {
    this.path = path;
    this.readOnly = options.readOnly ?? false;
    this.#bytes = Uint8Array.from(bytes);
    this.#size = bytes.length;
    this.#random = options.random;
    this.#fault = options.fault;
    this.#track = options.track ?? false;
    this.#limit = options.limit ?? 2 ** 31;
    this.#stable = this.#track ? Uint8Array.from(bytes) : new Uint8Array(0);
  }

  static load(path: string, options: SimOptions = {}): SimFile {
    return new SimFile(path, readFileSync(path), options);
  }

  get content(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  /** The same content, as another file. */
  copy(options: SimOptions = {}): SimFile {
    return new SimFile(this.path, this.content, options);
  }

  save(path = this.path): void {
    writeFileSync(path, this.content);
  }

  size(): number {
    return this.#size;
  }

  register(bytes: Uint8Array): number {
    const number = registerMemory(bytes);
    this.#registered.add(number);
    return number;
  }

  unregister(buffer: number): void {
    if (this.#registered.delete(buffer)) unregisterMemory(buffer);
  }

  bytes(buffer: number): Uint8Array {
    return memory[buffer] ?? new Uint8Array(0);
  }

  queue(
    operation: IoOperation,
    offset: number,
    length: number,
    vector: IoVector | undefined,
    owner: IoOwner,
    cookie: number,
  ): void {
    if (this.closed) throw new Error('I/O on a closed file');
    const copy = new IoVector();
    if (vector !== undefined) copy.addSlice(vector, 0, vector.byteLength);
    const size = vector === undefined ? length : vector.byteLength;
    this.#queued.push({
      operation,
      offset,
      length: size,
      vector: copy,
      owner,
      cookie,
      before: this.#completions,
    });
  }

  submit(): void {
    if (this.#queued.length === 0) return;
    this.counts.submits++;
    this.#inFlight.push(...this.#queued.splice(0));
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.closed) return;
      while (this.#inFlight.length > 0 && (this.#random === undefined || !this.#random.oneIn(3))) this.step();
      if (this.#inFlight.length > 0) {
        this.#queued.unshift(...this.#inFlight.splice(0));
        this.submit();
      }
    });
  }

  /** Completes one request, any of them. @returns whether there was one */
  step(): boolean {
    this.#inFlight.push(...this.#queued.splice(0));
    const held = this.holdFirst ? 1 : 0;
    if (this.#inFlight.length <= held) return false;
    const at = this.#random === undefined ? held : held + this.#random.below(this.#inFlight.length - held);
    const [request] = this.#inFlight.splice(at, 1);
    const { owner, cookie } = request!;
    owner.completed(cookie, this.#execute(request!));
    owner.batchEnd();
    return true;
  }

  get pending(): number {
    return this.#queued.length + this.#inFlight.length;
  }

  drain(owner: IoOwner): void {
    while ([...this.#queued, ...this.#inFlight].some((request) => request.owner === owner)) this.step();
  }

  truncate(size: number): void {
    this.#grow(size);
    this.#bytes.fill(0, Math.min(size, this.#size), this.#size);
    this.#size = size;
  }

  /** What was in use when the power was cut goes too. */
  close(): void {
    this.closed = true;
    for (const buffer of this.#registered) this.unregister(buffer);
  }

  /**
   * The file as a power cut now may leave it: of each sector what was synced, or anything written to it since,
   * requests in flight among that.
   */
  cut(random: Random): Uint8Array {
    const kept = new Map<number, Uint8Array>();
    const keepEach = random.pick([2, 2, 3, 10]);
    for (const [sector, versions] of this.#versions) {
      if (random.below(keepEach) !== 0) kept.set(sector, random.pick(versions).bytes);
    }
    for (const request of [...this.#queued, ...this.#inFlight]) {
      if (request.operation !== IO.write || random.oneIn(2)) continue;
      const bytes = this.#gather(request);
      for (let at = 0; at + SECTOR <= bytes.length; at += SECTOR) {
        if ((request.offset + at) % SECTOR === 0 && random.oneIn(2))
          kept.set((request.offset + at) / SECTOR, bytes.subarray(at, at + SECTOR));
      }
    }
    const end = Math.max(this.#stable.length, ...[...kept.keys()].map((sector) => (sector + 1) * SECTOR));
    const image = new Uint8Array(Math.min(end, Math.max(this.#size, this.#stable.length, end)));
    image.set(this.#stable);
    for (const [sector, bytes] of kept) image.set(bytes, sector * SECTOR);
    return image;
  }

  #execute(request: Pending): number {
    const { operation, offset, length } = request;
    const errno = this.#fault?.(operation, offset, length) ?? 0;
    this.#completions++;
    if (errno !== 0) return -errno;
    switch (operation) {
      case IO.read:
        this.counts.read++;
        return this.#read(request);
      case IO.write: {
        this.counts.write++;
        if (offset + length > this.#limit) {
          this.furthest = Math.max(this.furthest, offset);
          return -EFBIG;
        }
        this.#write(offset, this.#gather(request));
        return length;
      }
      case IO.sync:
        this.counts.sync++;
        this.#sync(request.before);
        return 0;
      default: {
        this.counts.punch++;
        const end = Math.min(offset + length, this.#size);
        if (end > offset) this.#write(offset, new Uint8Array(end - offset));
        return 0;
      }
    }
  }

  #read({ offset, length, vector }: Pending): number {
    let done = 0;
    const available = Math.max(0, Math.min(length, this.#size - offset));
    for (let i = 0; i < vector.count && done < available; i++) {
      const size = Math.min(vector.lengths[i]!, available - done);
      const target = memory[vector.buffers[i]!]!;
      target.set(this.#bytes.subarray(offset + done, offset + done + size), vector.offsets[i]);
      done += size;
    }
    return available;
  }

  #gather({ vector, length }: Pending): Uint8Array {
    const bytes = new Uint8Array(length);
    let done = 0;
    for (let i = 0; i < vector.count; i++) {
      const source = memory[vector.buffers[i]!]!;
      const start = vector.offsets[i]!;
      if (start + vector.lengths[i]! > source.length) throw new Error('a vector outside its buffer');
      bytes.set(source.subarray(start, start + vector.lengths[i]!), done);
      done += vector.lengths[i]!;
    }
    return bytes;
  }

  #write(offset: number, bytes: Uint8Array): void {
    this.#grow(offset + bytes.length);
    this.#size = Math.max(this.#size, offset + bytes.length);
    this.#bytes.set(bytes, offset);
    if (!this.#track) return;
    const first = Math.floor(offset / SECTOR);
    const last = Math.floor((offset + bytes.length - 1) / SECTOR);
    for (let sector = first; sector <= last; sector++) {
      const versions = this.#versions.get(sector) ?? [];
      const at = sector * SECTOR;
      const version = new Uint8Array(SECTOR);
      version.set(this.#bytes.subarray(at, Math.min(at + SECTOR, this.#size)));
      versions.push({ bytes: version, completedAt: this.#completions });
      this.#versions.set(sector, versions);
    }
  }

  /** What was complete before the sync was asked for is stable now. */
  #sync(before: number): void {
    if (!this.#track) return;
    for (const [sector, versions] of this.#versions) {
      const stable = versions.filter(({ completedAt }) => completedAt <= before);
      const last = stable.at(-1);
      if (last === undefined) continue;
      const end = (sector + 1) * SECTOR;
      if (end > this.#stable.length) {
        const larger = new Uint8Array(Math.max(end, Math.min(2 * this.#stable.length, this.#size)));
        larger.set(this.#stable);
        this.#stable = larger;
      }
      this.#stable.set(last.bytes, sector * SECTOR);
      const rest = versions.slice(stable.length);
      if (rest.length === 0) this.#versions.delete(sector);
      else this.#versions.set(sector, rest);
    }
  }

  #grow(size: number): void {
    if (size <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(size, 2 * this.#bytes.length));
    larger.set(this.#bytes.subarray(0, this.#size));
    this.#bytes = larger;
  }
}
