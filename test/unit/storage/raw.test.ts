import { execFileSync } from 'node:child_process';
import {
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { GuestRam } from '../../../src/kvm/memory.ts';
import { IoRing, type IoEngine } from '../../../src/kvm/io-ring.ts';
import { StorageError, type Disk, type DiskCache } from '../../../src/storage/disk.ts';
import { openDisk, type DiskOptions } from '../../../src/storage/open.ts';
import { DiskUser } from '../../support/disk-user.ts';

const { EINVAL, EROFS, EBADF } = constants.errno;
const KIB = 1024;

let folder: string;
let path: string;
let ring: IoRing;
let disk: Disk | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-raw-'));
  path = join(folder, 'disk.raw');
});

afterEach(async () => {
  await disk?.close();
  disk = undefined;
  ring.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Bytes that tell their place. */
const pattern = (length: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + (i >>> 9) * 13 + seed) & 0xff);

/** As toEqual(), which takes its time with so many numbers. */
function expectBytes(actual: Uint8Array, expected: Uint8Array): void {
  expect(actual.length).toBe(expected.length);
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  expect([at, actual[at]]).toEqual([-1, undefined]);
}

const allocated = (): number => statSync(path).blocks * 512;

async function open(options: Partial<DiskOptions> & { engine?: IoEngine } = {}): Promise<DiskUser> {
  const { engine, ...rest } = options;
  ring = new IoRing(engine === undefined ? {} : { engine });
  disk = await openDisk(ring, { path, format: 'raw', ...rest });
  return new DiskUser(ring, disk);
}

describe.each([
  ['io_uring', 'writeback'],
  ['io_uring', 'none'],
  ['io_uring', 'unsafe'],
  ['threads', 'writeback'],
  ['threads', 'none'],
] as const)('a raw disk on %s with cache=%s', (engine: IoEngine, cache: DiskCache) => {
  beforeEach(() => writeFileSync(path, pattern(64 * KIB)));

  test('reads what is in the file', async () => {
    const user = await open({ engine, cache });
    expectBytes(await user.read(4 * KIB, 8 * KIB), pattern(64 * KIB).slice(4 * KIB, 12 * KIB));
  });

  test('writes to the file, and nowhere else in it', async () => {
    const user = await open({ engine, cache });
    const bytes = pattern(8 * KIB, 99);
    await user.write(16 * KIB, bytes);
    const expected = pattern(64 * KIB);
    expected.set(bytes, 16 * KIB);
    expectBytes(readFileSync(path), expected);
  });

  test('reads and writes memory in pieces of odd lengths at odd places', async () => {
    const user = await open({ engine, cache });
    const bytes = pattern(1536, 5);
    const backing = new Uint8Array(4096);
    backing.set(bytes, 3);
    await user.write(512, backing.subarray(3, 4), backing.subarray(4, 1000), backing.subarray(1000, 1539));
    const expected = pattern(64 * KIB);
    expected.set(bytes, 512);
    expectBytes(readFileSync(path), expected);
    const target = new Uint8Array(2048);
    const pieces = [target.subarray(1, 700), target.subarray(701, 702), target.subarray(703, 1539)];
    expect(await user.ask({ operation: 'read', offset: 512, memory: pieces })).toBe(0);
    expectBytes(Buffer.concat(pieces), bytes);
  });

  test('reads and writes single sectors in memory that is aligned to sectors', async () => {
    const user = await open({ engine, cache });
    const ram = new GuestRam({ ranges: [{ base: 0, size: 0x1000 }] });
    const memory = ram.memory.windows[0]!.bytes.subarray(512, 1024);
    memory.set(pattern(512, 77));
    expect(await user.ask({ operation: 'write', offset: 1536, memory: [memory] })).toBe(0);
    memory.fill(0);
    expect(await user.ask({ operation: 'read', offset: 1536, memory: [memory] })).toBe(0);
    expectBytes(memory, pattern(512, 77));
    ram.close();
  });

  test('completes many requests of one commit, and says once a batch that it is over', async () => {
    const user = await open({ engine, cache });
    const ram = new GuestRam({ ranges: [{ base: 0, size: 0x10000 }] });
    const { bytes } = ram.memory.windows[0]!;
    const asked = Array.from({ length: 16 }, (_, i) => {
      const memory = bytes.subarray(4 * KIB * i, 4 * KIB * (i + 1)).fill(i + 1);
      return user.submit({ operation: 'write', offset: 4 * KIB * i, memory: [memory] });
    });
    expect(user.disk.inFlight).toBe(16);
    expect(user.completed).toHaveLength(0);
    user.disk.commit();
    expect(await Promise.all(asked)).toEqual(Array(16).fill(0));
    expect(user.disk.inFlight).toBe(0);
    expect(user.batches).toBeGreaterThanOrEqual(1);
    const file = readFileSync(path);
    expect(Array.from({ length: 16 }, (_, i) => file[4 * KIB * i + 5])).toEqual(asked.map((_, i) => i + 1));
    ram.close();
  });

  test('requests in memory that direct I/O cannot take and others go on side by side', async () => {
    const user = await open({ engine, cache });
    const ram = new GuestRam({ ranges: [{ base: 0, size: 0x10000 }] });
    const { bytes } = ram.memory.windows[0]!;
    const odd = new Uint8Array(64 * KIB);
    // sectors of the same pages, by turns from aligned and from odd memory
    const asked = Array.from({ length: 64 }, (_, i) => {
      const at =
        i % 2 === 0 ? bytes.subarray(512 * i, 512 * (i + 1)) : odd.subarray(512 * i + 1, 512 * i + 513);
      return user.submit({ operation: 'write', offset: 512 * i, memory: [at.fill(i + 1)] });
    });
    user.disk.commit();
    expect(await Promise.all(asked)).toEqual(Array(64).fill(0));
    expect(await user.ask({ operation: 'flush' })).toBe(0);
    const file = readFileSync(path);
    expect(Array.from({ length: 64 }, (_, i) => file[512 * i + 300])).toEqual(asked.map((_, i) => i + 1));
    ram.close();
  });

  test('drain blocks until nothing is in flight', async () => {
    const user = await open({ engine, cache });
    const memory = pattern(512 * 8, 3);
    void user.ask({ operation: 'write', offset: 0, memory: [memory] });
    void user.submit({ operation: 'flush' });
    user.disk.drain();
    expect(user.disk.inFlight).toBe(0);
    expect(user.completed).toHaveLength(2);
    expectBytes(readFileSync(path).subarray(0, 4096), memory);
  });

  test('a discard makes a hole that reads as zeros', async () => {
    const user = await open({ engine, cache });
    const before = allocated();
    expect(await user.ask({ operation: 'discard', offset: 16 * KIB, length: 32 * KIB })).toBe(0);
    expect(allocated()).toBe(before - 32 * KIB);
    expectBytes(await user.read(16 * KIB, 32 * KIB), new Uint8Array(32 * KIB));
    expect(statSync(path).size).toBe(64 * KIB);
  });

  test('zeros that may be a hole become one', async () => {
    const user = await open({ engine, cache });
    const before = allocated();
    const ask = { operation: 'writeZeroes', offset: 16 * KIB, length: 32 * KIB, unmap: true } as const;
    expect(await user.ask(ask)).toBe(0);
    expect(allocated()).toBe(before - 32 * KIB);
    expectBytes(await user.read(16 * KIB, 32 * KIB), new Uint8Array(32 * KIB));
  });

  test('zeros that may be no hole keep their space', async () => {
    const user = await open({ engine, cache });
    const before = allocated();
    expect(await user.ask({ operation: 'writeZeroes', offset: 512, length: 20 * KIB })).toBe(0);
    expect(allocated()).toBeGreaterThanOrEqual(before);
    const expected = pattern(64 * KIB).fill(0, 512, 512 + 20 * KIB);
    expectBytes(readFileSync(path), expected);
  });

  test('a last sector that the file has only a part of is filled up with zeros', async () => {
    truncateSync(path, 64 * KIB - 200);
    const user = await open({ engine, cache });
    expect(user.disk.size).toBe(64 * KIB);
    const expected = pattern(64 * KIB).fill(0, 64 * KIB - 200);
    expectBytes(await user.read(60 * KIB, 4 * KIB), expected.slice(60 * KIB));
    expect(statSync(path).size).toBe(64 * KIB - 200);
    await user.write(64 * KIB - 512, pattern(512, 9));
    expect(statSync(path).size).toBe(64 * KIB);
    expectBytes(await user.read(64 * KIB - 512, 512), pattern(512, 9));
  });

  test('a file that somebody has cut short reads as zeros beyond its end', async () => {
    const user = await open({ engine, cache });
    truncateSync(path, 10_000);
    const expected = pattern(64 * KIB).fill(0, 10_000);
    expectBytes(await user.read(0, 64 * KIB), expected);
  });

  test.each([
    ['read', 64 * KIB, 512],
    ['read', 63 * KIB, 2 * KIB],
    ['write', 64 * KIB - 512, 1024],
    ['read', -512, 512],
    ['write', 2 ** 53, 512],
    ['write', NaN, 512],
    ['read', 0.5, 512],
  ] as const)('a %s at %d of %d bytes is outside of it', async (operation, offset, length) => {
    const user = await open({ engine, cache });
    const memory = [new Uint8Array(length)];
    expect(await user.ask({ operation, offset, memory })).toBe(EINVAL);
    expectBytes(readFileSync(path), pattern(64 * KIB));
  });

  test.each(['discard', 'writeZeroes'] as const)(
    'a %s of a range outside of it is refused',
    async (operation) => {
      const user = await open({ engine, cache });
      for (const [offset, length] of [
        [64 * KIB, 512],
        [0, 65 * KIB],
        [0, -512],
        [2 ** 53 - 512, 2 ** 53 - 512],
        [0, 2 ** 60],
      ] as const) {
        expect(await user.ask({ operation, offset, length })).toBe(EINVAL);
      }
      expectBytes(readFileSync(path), pattern(64 * KIB));
    },
  );

  test('memory that is not as long as the request is refused', async () => {
    const user = await open({ engine, cache });
    const memory = [new Uint8Array(512)];
    expect(await user.ask({ operation: 'read', length: 1024, memory })).toBe(EINVAL);
    expect(await user.ask({ operation: 'write', length: 0, memory })).toBe(EINVAL);
  });

  test('requests of no length complete', async () => {
    const user = await open({ engine, cache });
    for (const operation of ['read', 'write', 'discard', 'writeZeroes'] as const) {
      expect(await user.ask({ operation, offset: 64 * KIB, length: 0 })).toBe(0);
    }
  });

  test('read-only, it refuses what would change it and serves the rest', async () => {
    const user = await open({ engine, cache, readOnly: true });
    const memory = [new Uint8Array(512)];
    expect(user.disk.readOnly).toBe(true);
    expect(user.disk.discards).toBe(false);
    expect(await user.ask({ operation: 'write', memory })).toBe(EROFS);
    expect(await user.ask({ operation: 'discard', length: 512 })).toBe(EROFS);
    expect(await user.ask({ operation: 'writeZeroes', length: 512 })).toBe(EROFS);
    expect(await user.ask({ operation: 'flush' })).toBe(0);
    expectBytes(await user.read(0, 512), pattern(512));
  });

  test('grows by a resize, while requests are in flight', async () => {
    const user = await open({ engine, cache });
    const write = user.ask({ operation: 'write', offset: 60 * KIB, memory: [pattern(4 * KIB, 3)] });
    await user.disk.resize(128 * KIB);
    expect(user.disk.size).toBe(128 * KIB);
    expect(statSync(path).size).toBe(128 * KIB);
    expect(await write).toBe(0);
    await user.write(127 * KIB, pattern(1024, 4));
    expectBytes(await user.read(127 * KIB, 1024), pattern(1024, 4));
  });

  test('shrinks by a resize, after the requests in flight', async () => {
    const user = await open({ engine, cache });
    const before = user.ask({ operation: 'write', offset: 60 * KIB, memory: [pattern(4 * KIB, 3)] });
    const resized = user.disk.resize(32 * KIB);
    const after = user.ask({ operation: 'write', offset: 60 * KIB, memory: [pattern(4 * KIB, 3)] });
    const inside = user.ask({ operation: 'read', offset: 28 * KIB, memory: [new Uint8Array(4 * KIB)] });
    await resized;
    expect(await before).toBe(0);
    expect(await after).toBe(EINVAL);
    expect(await inside).toBe(0);
    expect(statSync(path).size).toBe(32 * KIB);
    expect(user.disk.size).toBe(32 * KIB);
  });

  test('close ends what is in flight, and nothing is taken afterwards', async () => {
    const user = await open({ engine, cache });
    const write = user.ask({ operation: 'write', offset: 0, memory: [pattern(4 * KIB, 3)] });
    await user.disk.close();
    expect(await write).toBe(0);
    expect(await user.ask({ operation: 'flush' })).toBe(EBADF);
    await user.disk.close();
  });
});

describe('what a raw disk says of itself', () => {
  test('of a file: blocks as its file system has them', async () => {
    truncateSync((writeFileSync(path, ''), path), 1024 * KIB);
    const { disk: opened } = await open();
    const { blksize } = statSync(path);
    expect(opened).toMatchObject({
      path,
      size: 1024 * KIB,
      readOnly: false,
      blockSize: blksize >= 4096 ? 4096 : 512,
      discards: true,
      discardGranularity: blksize,
    });
  });

  test('a resize to a size that is none is refused', async () => {
    writeFileSync(path, pattern(8 * KIB));
    const { disk: opened } = await open();
    for (const size of [0, -512, 1000, NaN, 2 ** 60, 0.5]) {
      await expect(opened.resize(size)).rejects.toThrow(StorageError);
    }
    expect(opened.size).toBe(8 * KIB);
    expect(statSync(path).size).toBe(8 * KIB);
  });

  test('a read-only disk is not resized', async () => {
    writeFileSync(path, pattern(8 * KIB));
    const { disk: opened } = await open({ readOnly: true });
    await expect(opened.resize(16 * KIB)).rejects.toMatchObject({ code: 'EROFS' });
  });
});

describe('what cannot be opened', () => {
  const refused = async (options: Partial<DiskOptions> = {}): Promise<StorageError> => {
    const error: unknown = await open(options).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(StorageError);
    return error as StorageError;
  };

  test('a file that is not there, with the way to make one', async () => {
    expect(await refused()).toMatchObject({
      code: 'ENOENT',
      path,
      message: expect.stringContaining(path) as string,
      hint: expect.stringContaining('tsvm disk create') as string,
    });
  });

  test('a directory', async () => {
    path = folder;
    expect((await refused()).message).toContain('a directory');
  });

  test('a FIFO, without waiting for its other end', async () => {
    execFileSync('mkfifo', [path]);
    expect((await refused()).message).toContain('neither a file nor a block device');
  });

  test('a character device', async () => {
    symlinkSync('/dev/zero', path);
    expect((await refused()).message).toContain('neither a file nor a block device');
  });

  test('an empty file', async () => {
    writeFileSync(path, '');
    expect(await refused()).toMatchObject({ hint: expect.stringContaining('truncate') as string });
  });

  test('direct I/O on a file system that has none, with the mode to use instead', async () => {
    path = '/proc/self/maps';
    expect(await refused({ cache: 'none', readOnly: true })).toMatchObject({
      code: 'EINVAL',
      hint: expect.stringContaining('writeback') as string,
    });
  });
});
