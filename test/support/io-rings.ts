/** What tests of the I/O ring have in common: both engines, files, and an owner that writes down what it hears. */
import { closeSync, constants, fstatSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, vi } from 'vitest';
import { KvmError } from '../../src/kvm/errors.ts';
import { IoRing, type IoEngine, type IoOwner, type IoRingOptions } from '../../src/kvm/io-ring.ts';
import { IoVector } from '../../src/kvm/io-vector.ts';

/** The engines that work here. Threads do everywhere. */
export const ENGINES: readonly IoEngine[] = (() => {
  try {
    new IoRing({ engine: 'io_uring' }).close();
    return ['io_uring', 'threads'];
  } catch (error) {
    if (error instanceof KvmError) return ['threads'];
    throw error;
  }
})();

export class Listener implements IoOwner {
  readonly results = new Map<number, number>();
  batches = 0;
  /** called with every completion, after it was written down */
  heard: (cookie: number, result: number) => void = () => undefined;

  completed(cookie: number, result: number): void {
    if (this.results.has(cookie)) throw new Error(`request ${cookie} completed twice`);
    this.results.set(cookie, result);
    this.heard(cookie, result);
  }

  batchEnd(): void {
    this.batches++;
  }

  /** The result of one request, which is waited for on the event loop. */
  async result(cookie: number): Promise<number> {
    await this.all(() => this.results.has(cookie));
    return this.results.get(cookie)!;
  }

  async count(count: number): Promise<void> {
    await this.all(() => this.results.size >= count);
  }

  async all(done: () => boolean): Promise<void> {
    await vi.waitUntil(done, { timeout: 20_000, interval: 1 });
  }
}

export function vectorOf(
  ...pieces: readonly (readonly [buffer: number, offset: number, length: number])[]
): IoVector {
  const vector = new IoVector();
  for (const [buffer, offset, length] of pieces) vector.add(buffer, offset, length);
  return vector;
}

/** Rings and files of a test file; rings are closed after each test, files at the end. */
export function ioRings(): {
  ring(options: IoRingOptions): IoRing;
  /** a new file with these contents, and a descriptor of it */
  file(contents: Uint8Array, flags?: number): { path: string; fd: number };
  blocks(fd: number): number;
} {
  let folder = '';
  let files = 0;
  const rings: IoRing[] = [];
  const fds: number[] = [];
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'tsvm-io-'));
  });
  afterEach(() => {
    for (const ring of rings.splice(0)) ring.close();
    for (const fd of fds.splice(0)) closeSync(fd);
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  return {
    ring: (options) => {
      const ring = new IoRing(options);
      rings.push(ring);
      return ring;
    },
    file: (contents, flags = 0) => {
      const path = join(folder, `${files++}`);
      writeFileSync(path, contents);
      const fd = openSync(path, constants.O_RDWR | flags);
      fds.push(fd);
      return { path, fd };
    },
    // 512-byte units, as fstat counts them
    blocks: (fd) => fstatSync(fd).blocks,
  };
}

/** Bytes that tell where they lie. */
export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 7 + (i >>> 8) * 13 + seed * 31) & 0xff;
  return bytes;
}

/** A generator of numbers below `limit`, the same ones for the same seed (mulberry32). */
export function randomBelow(seed: number): (limit: number) => number {
  let state = seed | 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}
