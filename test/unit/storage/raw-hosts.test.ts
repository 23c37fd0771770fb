/** Raw disks on what hosts have besides a usual file system. */
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import type { Disk, DiskCache } from '../../../src/storage/disk.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { DiskUser } from '../../support/disk-user.ts';
import { attachLoop, canLoop, canMount, mountTmpfs, type LoopDevice } from '../../support/scratch-mounts.ts';

const { ENOSPC } = constants.errno;
const KIB = 1024;

let ring: IoRing;
let disk: Disk | undefined;
const releases: (() => void)[] = [];

beforeEach(() => (ring = new IoRing()));

afterEach(async () => {
  await disk?.close();
  disk = undefined;
  ring.close();
  for (const release of releases.splice(0)) release();
});

async function open(path: string, cache: DiskCache = 'writeback'): Promise<DiskUser> {
  disk = await openDisk(ring, { path, format: 'raw', cache });
  return new DiskUser(ring, disk);
}

describe.runIf(canMount)('on a file system that has no ZERO_RANGE (tmpfs)', () => {
  const newFile = (size: number): string => {
    const mount = mountTmpfs(16 * KIB * KIB);
    releases.push(() => mount.release());
    const path = join(mount.folder, 'disk.raw');
    writeFileSync(path, new Uint8Array(size).fill(7));
    return path;
  };

  test.each([0, 300])('zeros are written as data, however many, from offset %i on', async (offset) => {
    const size = 6 * KIB * KIB;
    const path = newFile(size);
    const user = await open(path);
    const length = 5 * KIB * KIB + 512;
    for (let i = 0; i < 2; i++) {
      expect(await user.ask({ operation: 'writeZeroes', offset: 512 * offset, length })).toBe(0);
    }
    const expected = Buffer.alloc(size, 7).fill(0, 512 * offset, 512 * offset + length);
    expect(readFileSync(path).equals(expected)).toBe(true);
    expect(statSync(path).blocks * 512).toBe(size);
  });

  test('a write that finds no space on the host fails with ENOSPC', async () => {
    const path = newFile(512);
    truncateSync(path, 64 * KIB * KIB);
    const user = await open(path);
    const bytes = new Uint8Array(12 * KIB * KIB);
    expect(await user.ask({ operation: 'write', offset: 0, memory: [bytes] })).toBe(0);
    expect(await user.ask({ operation: 'write', offset: bytes.length, memory: [bytes] })).toBe(ENOSPC);
    expect(await user.ask({ operation: 'discard', offset: 0, length: bytes.length })).toBe(0);
    expect(await user.ask({ operation: 'write', offset: bytes.length, memory: [bytes] })).toBe(0);
  });
});

describe.runIf(canLoop)('on a block device', () => {
  const attach = (size: number, sectorSize?: number): LoopDevice => {
    const loop = attachLoop(size, sectorSize);
    releases.push(() => loop.release());
    return loop;
  };

  test('has its size, and reads and writes it', async () => {
    const loop = attach(KIB * KIB);
    const user = await open(loop.path);
    expect(user.disk.size).toBe(KIB * KIB);
    await user.write(KIB * KIB - 512, new Uint8Array(512).fill(9));
    expect(await user.ask({ operation: 'flush' })).toBe(0);
    expect(readFileSync(loop.file).subarray(-512)).toEqual(Buffer.alloc(512, 9));
    expect(await user.read(KIB * KIB - 512, 512)).toEqual(new Uint8Array(512).fill(9));
  });

  test.each(['writeback', 'none'] as const)('with cache=%s discards and writes zeros', async (cache) => {
    const loop = attach(KIB * KIB);
    const user = await open(loop.path, cache);
    await user.write(0, new Uint8Array(64 * KIB).fill(5));
    expect(await user.ask({ operation: 'flush' })).toBe(0);
    expect(user.disk.discards).toBe(true);
    expect(await user.ask({ operation: 'discard', offset: 0, length: 16 * KIB })).toBe(0);
    expect(await user.ask({ operation: 'writeZeroes', offset: 16 * KIB, length: 16 * KIB })).toBe(0);
    const unmap = { operation: 'writeZeroes', offset: 32 * KIB, length: 16 * KIB, unmap: true } as const;
    expect(await user.ask(unmap)).toBe(0);
    const expected = Buffer.alloc(64 * KIB, 5).fill(0, 0, 48 * KIB);
    expect(Buffer.from(await user.read(0, 64 * KIB)).equals(expected)).toBe(true);
  });

  test('of 4096-byte sectors takes requests of 512 bytes too, past the page cache', async () => {
    const loop = attach(KIB * KIB, 4096);
    const user = await open(loop.path, 'none');
    expect(user.disk.blockSize).toBe(4096);
    const memory = new Uint8Array(8 * KIB);
    await user.write(0, memory.fill(1));
    await Promise.all([
      user.write(512, new Uint8Array(512).fill(2)),
      user.write(2048, new Uint8Array(512).fill(3)),
    ]);
    expect(await user.ask({ operation: 'writeZeroes', offset: 1024, length: 512 })).toBe(0);
    expect(await user.ask({ operation: 'discard', offset: 3584, length: 512 })).toBe(0);
    expect(await user.ask({ operation: 'flush' })).toBe(0);
    const expected = Buffer.alloc(8 * KIB, 1)
      .fill(2, 512, 1024)
      .fill(0, 1024, 1536)
      .fill(3, 2048, 2560);
    const actual = Buffer.from(await user.read(0, 8 * KIB));
    // the discarded sector may be either
    actual.fill(1, 3584, 4096);
    expect(actual.equals(expected)).toBe(true);
    expect(await user.read(512, 512)).toEqual(new Uint8Array(512).fill(2));
  });

  test('cannot be resized but to the size that it has', async () => {
    const loop = attach(KIB * KIB);
    const user = await open(loop.path);
    await expect(user.disk.resize(2 * KIB * KIB)).rejects.toMatchObject({ code: 'EINVAL' });
    await user.disk.resize(KIB * KIB);
    expect(user.disk.size).toBe(KIB * KIB);
  });
});
