/** Images by qemu-img read the same, and images that were written to satisfy it; on the real ring. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import type { Disk } from '../../../src/storage/disk.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { createQcow2, type CreateOptions } from '../../../src/storage/qcow2/create.ts';
import { Random } from '../../fuzz/random.ts';
import { DiskUser } from '../../support/disk-user.ts';
import {
  noQemuTools,
  qemuCheck,
  qemuImg,
  qemuIo,
  qemuIoAborted,
  temporaryFolder,
} from '../../support/storage/qemu-img.ts';

const MIB = 2 ** 20;

let ring: IoRing;
let folder: ReturnType<typeof temporaryFolder>;
let open: Disk[] = [];

beforeEach(() => {
  ring = new IoRing();
  folder = temporaryFolder();
});

afterEach(async () => {
  for (const disk of open) await disk.close();
  open = [];
  ring.close();
  folder.remove();
});

async function openImage(path: string, readOnly = false): Promise<DiskUser> {
  const disk = await openDisk(ring, { path, format: 'qcow2', readOnly });
  open.push(disk);
  return new DiskUser(ring, disk);
}

async function content(user: DiskUser): Promise<Uint8Array> {
  const bytes = new Uint8Array(user.disk.size);
  for (let at = 0; at < bytes.length; at += MIB) {
    bytes.set(await user.read(at, Math.min(MIB, bytes.length - at)), at);
  }
  return bytes;
}

const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Data that compresses, data that does not, and nothing, in turn. */
function sampleBytes(size: number): Uint8Array {
  const random = new Random(1);
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 40_000) {
    const part = bytes.subarray(at, Math.min(size, at + 40_000));
    const kind = random.below(3);
    if (kind === 0) random.fill(part);
    else if (kind === 1) part.fill(random.below(256));
  }
  return bytes;
}

const GEOMETRIES = [
  'cluster_size=512',
  'cluster_size=1024,refcount_bits=1',
  'cluster_size=4096,refcount_bits=2',
  'cluster_size=4096,refcount_bits=4',
  'refcount_bits=8',
  'refcount_bits=32',
  'refcount_bits=64',
  'compat=0.10',
  'compat=0.10,cluster_size=2M',
  'cluster_size=2M',
  'extended_l2=on',
  'extended_l2=on,cluster_size=2M',
  'extended_l2=on,cluster_size=16k',
  'lazy_refcounts=on',
  'compression_type=zstd',
] as const;

describe.skipIf(noQemuTools !== undefined)('an image by qemu-img', () => {
  test.each(GEOMETRIES)('reads the same, with %s', async (options) => {
    const bytes = sampleBytes(3 * MIB + 512);
    writeFileSync(folder.file('a.raw'), bytes);
    qemuImg(
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      '-o',
      options,
      folder.file('a.raw'),
      folder.file('a.qcow2'),
    );
    expect(isSame(await content(await openImage(folder.file('a.qcow2'), true)), bytes)).toBe(true);
  });

  test.each(
    ['cluster_size=512', 'cluster_size=64k', 'cluster_size=2M', 'compat=0.10', 'extended_l2=on'].flatMap(
      (options) => [options, `${options},compression_type=zstd`].filter((each) => !/0\.10.*zstd/.test(each)),
    ),
  )('reads the same compressed, with %s', async (options) => {
    const bytes = sampleBytes(3 * MIB + 512);
    writeFileSync(folder.file('a.raw'), bytes);
    const args = ['-c', '-f', 'raw', '-O', 'qcow2', '-o', options];
    qemuImg('convert', ...args, folder.file('a.raw'), folder.file('a.qcow2'));
    expect(isSame(await content(await openImage(folder.file('a.qcow2'), true)), bytes)).toBe(true);
  });

  test.each(['metadata', 'falloc', 'full'])('that is preallocated (%s) takes writes', async (mode) => {
    const path = folder.file('a.qcow2');
    qemuImg('create', '-f', 'qcow2', '-o', `preallocation=${mode}`, path, '4M');
    const user = await openImage(path);
    const bytes = sampleBytes(MIB);
    await user.write(1.5 * MIB, bytes);
    await user.disk.close();
    expect(qemuCheck(path)).not.toHaveProperty('leaks');
    qemuImg('convert', '-O', 'raw', path, folder.file('a.raw'));
    expect(isSame(readFileSync(folder.file('a.raw')).subarray(1.5 * MIB, 2.5 * MIB), bytes)).toBe(true);
  });

  test('with lazy refcounts that was not closed is counted anew, and takes writes', async () => {
    const path = folder.file('a.qcow2');
    qemuImg('create', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '4M');
    qemuIoAborted(path, 'write -P 7 0 1M', 'flush');
    expect(qemuCheck(path).corruptions).toBeGreaterThan(0);
    const lines: string[] = [];
    const disk = await openDisk(ring, { path, format: 'qcow2', log: (line) => lines.push(line) });
    const user = new DiskUser(ring, disk);
    await user.write(2 * MIB, new Uint8Array(MIB).fill(8));
    await disk.close();
    expect(lines).toEqual([expect.stringMatching(/counted anew/)]);
    expect(qemuCheck(path)).not.toHaveProperty('corruptions');
    qemuIo(path, 'read -P 7 0 1M', 'read -P 8 2M 1M');
  });

  test('with zero clusters and discarded ones reads as zeros there', async () => {
    const path = folder.file('a.qcow2');
    qemuImg('create', '-f', 'qcow2', path, '4M');
    qemuIo(path, 'write -P 9 0 4M', 'write -z 64k 64k', 'write -z -u 256k 128k', 'discard 1M 256k');
    const expected = new Uint8Array(4 * MIB).fill(9);
    expected
      .fill(0, 65536, 131072)
      .fill(0, 262144, 393216)
      .fill(0, MIB, MIB + 262144);
    expect(isSame(await content(await openImage(path, true)), expected)).toBe(true);
  });

  test('keeps its snapshots when the disk is written to, zeroed and discarded', async () => {
    const path = folder.file('a.qcow2');
    const bytes = sampleBytes(4 * MIB);
    writeFileSync(folder.file('a.raw'), bytes);
    qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', folder.file('a.raw'), path);
    qemuIo(path, 'write -P 3 1M 1M');
    bytes.fill(3, MIB, 2 * MIB);
    qemuImg('snapshot', '-c', 'before', path);

    const user = await openImage(path);
    await user.write(100_352, new Uint8Array(300_032).fill(5));
    await user.write(MIB + 4096, new Uint8Array(4096).fill(6));
    expect(await user.ask({ operation: 'discard', offset: MIB + 131072, length: 262144 })).toBe(0);
    expect(await user.ask({ operation: 'writeZeroes', offset: 3 * MIB, length: 131072, unmap: true })).toBe(
      0,
    );
    await user.disk.close();

    expect(qemuCheck(path)).not.toHaveProperty('leaks');
    expect(qemuCheck(path)).not.toHaveProperty('corruptions');
    qemuImg('convert', '-l', 'snapshot.name=before', '-O', 'raw', path, folder.file('before.raw'));
    expect(isSame(readFileSync(folder.file('before.raw')), bytes)).toBe(true);
  });

  test('over another, with a name relative to its folder, shows both', async () => {
    qemuImg('create', '-f', 'qcow2', folder.file('base.qcow2'), '2M');
    qemuIo(folder.file('base.qcow2'), 'write -P 1 0 1M');
    const overlay = folder.file('overlay.qcow2');
    qemuImg('create', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', overlay, '3M');
    qemuIo(overlay, 'write -P 2 512k 64k');
    const expected = new Uint8Array(3 * MIB);
    expected.fill(1, 0, MIB).fill(2, MIB / 2, MIB / 2 + 65536);
    expect(isSame(await content(await openImage(overlay, true)), expected)).toBe(true);
  });

  test('over a raw file that is smaller takes writes, with what is around them from below', async () => {
    const base = sampleBytes(MIB + 512);
    writeFileSync(folder.file('base.raw'), base);
    const overlay = folder.file('overlay.qcow2');
    qemuImg('create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', overlay, '3M');
    const user = await openImage(overlay);
    await user.write(70_144, new Uint8Array(512).fill(8));
    await user.write(MIB, new Uint8Array(512).fill(9));
    await user.disk.close();
    const expected = new Uint8Array(3 * MIB);
    expected.set(base);
    expected.fill(8, 70_144, 70_656).fill(9, MIB, MIB + 512);
    qemuImg('convert', '-O', 'raw', overlay, folder.file('a.raw'));
    expect(isSame(readFileSync(folder.file('a.raw')), expected)).toBe(true);
    expect(isSame(readFileSync(folder.file('base.raw')), base)).toBe(true);
  });
});

describe.skipIf(noQemuTools !== undefined)('an image that we create', () => {
  const OPTIONS: readonly Partial<CreateOptions>[] = [
    {},
    { version: 2 },
    { clusterSize: 512 },
    { clusterSize: 2 * MIB },
    { clusterSize: 512, refcountBits: 64 },
    { refcountBits: 1 },
    { extendedL2: true },
    { compression: 'zstd', lazyRefcounts: true },
    { preallocation: 'metadata' },
    { preallocation: 'metadata', extendedL2: true, clusterSize: 16384 },
    { preallocation: 'metadata', clusterSize: 512 },
    { preallocation: 'falloc' },
    { preallocation: 'full' },
  ];

  test.each(OPTIONS)('is one for qemu-img, with %o', async (options) => {
    const path = folder.file('a.qcow2');
    await createQcow2(path, { ...options, size: 5 * MIB + 512 });
    expect(qemuCheck(path)).toMatchObject({ 'check-errors': 0 });
    expect(qemuCheck(path)).not.toHaveProperty('leaks');
    const info = JSON.parse(qemuImg('info', '--output=json', path)) as Record<string, unknown>;
    expect(info['virtual-size']).toBe(5 * MIB + 512);
    expect(info['cluster-size']).toBe(options.clusterSize ?? 65536);
    qemuIo(path, 'write -P 4 512 1M', 'read -P 0 0 512');
    expect(qemuCheck(path)).not.toHaveProperty('corruptions');
  });
});
