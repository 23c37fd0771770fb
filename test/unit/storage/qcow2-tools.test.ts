/** Convert, rebase, commit, map, check and resize, with QEMU's tools as the other opinion. */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IoRing } from '../../../src/kvm/io-ring.ts';
import { commitOverlay } from '../../../src/storage/commit.ts';
import { convertDisk, type ConvertTarget } from '../../../src/storage/convert.ts';
import { joinLayers } from '../../../src/storage/join-layers.ts';
import { openDisk } from '../../../src/storage/open.ts';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import { createOverlay } from '../../../src/storage/qcow2/create-overlay.ts';
import { createQcow2 } from '../../../src/storage/qcow2/create.ts';
import { RingFile } from '../../../src/storage/qcow2/host-file.ts';
import { imageInfo } from '../../../src/storage/qcow2/info.ts';
import { mapDisk, type DiskExtent } from '../../../src/storage/qcow2/map.ts';
import { rebaseOverlay } from '../../../src/storage/rebase.ts';
import { Random } from '../../fuzz/random.ts';
import { DiskUser } from '../../support/disk-user.ts';
import { noQemuTools, qemuCheck, qemuImg, qemuIo, temporaryFolder } from '../../support/storage/qemu-img.ts';

const MIB = 2 ** 20;

let ring: IoRing;
let folder: ReturnType<typeof temporaryFolder>;

beforeEach(() => {
  ring = new IoRing();
  folder = temporaryFolder();
});

afterEach(() => {
  ring.close();
  folder.remove();
});

const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Noise, one byte again and again, and nothing, in turn. */
function sampleBytes(size: number, seed = 1): Uint8Array {
  const random = new Random(seed);
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 150_000) {
    const part = bytes.subarray(at, Math.min(size, at + 150_000));
    const kind = random.below(3);
    if (kind === 0) random.fill(part);
    else if (kind === 1) part.fill(random.below(256));
  }
  return bytes;
}

/** What QEMU reads. */
function contentOf(path: string): Uint8Array {
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, folder.file('content.raw'));
  return readFileSync(folder.file('content.raw'));
}

async function write(path: string, offset: number, bytes: Uint8Array): Promise<void> {
  const disk = await openDisk(ring, { path, format: 'qcow2' });
  await new DiskUser(ring, disk).write(offset, bytes);
  await disk.close();
}

describe.skipIf(noQemuTools !== undefined)('convert', () => {
  const bytes = sampleBytes(5 * MIB + 512);

  test.each<[string, Omit<ConvertTarget & { format: 'qcow2' }, 'path'>]>([
    ['to qcow2', { format: 'qcow2' }],
    ['to qcow2 with the smallest clusters', { format: 'qcow2', clusterSize: 512 }],
    ['to qcow2 with the largest clusters', { format: 'qcow2', clusterSize: 2 * MIB }],
    ['to qcow2 with extended L2 entries', { format: 'qcow2', extendedL2: true }],
    ['to compressed qcow2', { format: 'qcow2', compressed: true }],
    [
      'to compressed qcow2 with the smallest clusters',
      { format: 'qcow2', compressed: true, clusterSize: 512 },
    ],
    [
      'to compressed qcow2 with the largest clusters',
      { format: 'qcow2', compressed: true, clusterSize: 2 * MIB },
    ],
    ['to compressed qcow2 with counts of one bit', { format: 'qcow2', compressed: true, refcountBits: 1 }],
    ['to compressed qcow2, version 2', { format: 'qcow2', compressed: true, version: 2 }],
  ])('from raw %s', async (_name, target) => {
    writeFileSync(folder.file('a.raw'), bytes);
    const source = await openDisk(ring, { path: folder.file('a.raw'), format: 'raw', readOnly: true });
    await convertDisk(ring, source, { ...target, path: folder.file('b.qcow2') });
    expect(isSame(contentOf(folder.file('b.qcow2')), bytes)).toBe(true);
    expect(qemuCheck(folder.file('b.qcow2'))).not.toHaveProperty('leaks');
    expect(qemuCheck(folder.file('b.qcow2'))).not.toHaveProperty('corruptions');
  });

  test('from an overlay to raw leaves holes for zeros', async () => {
    qemuImg('create', '-f', 'qcow2', folder.file('base.qcow2'), '8M');
    qemuIo(folder.file('base.qcow2'), 'write -P 1 0 1M');
    qemuImg('create', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', folder.file('a.qcow2'));
    qemuIo(folder.file('a.qcow2'), 'write -P 2 512k 1M', 'write -z 0 64k');
    const source = await openDisk(ring, { path: folder.file('a.qcow2'), format: 'qcow2', readOnly: true });
    await convertDisk(ring, source, { format: 'raw', path: folder.file('b.raw') });
    expect(isSame(readFileSync(folder.file('b.raw')), contentOf(folder.file('a.qcow2')))).toBe(true);
    expect(imageInfo(ring, folder.file('b.raw'), 'raw').allocatedSize).toBeLessThanOrEqual(1.5 * MIB);
  });

  test('makes compressed images smaller', async () => {
    writeFileSync(folder.file('a.raw'), new Uint8Array(8 * MIB).fill(7));
    const source = await openDisk(ring, { path: folder.file('a.raw'), format: 'raw', readOnly: true });
    await convertDisk(ring, source, { format: 'qcow2', compressed: true, path: folder.file('b.qcow2') });
    expect(imageInfo(ring, folder.file('b.qcow2'), 'qcow2').fileSize).toBeLessThan(MIB);
  });

  test('leaves nothing where it fails', async () => {
    writeFileSync(folder.file('a.raw'), bytes);
    const source = await openDisk(ring, { path: folder.file('a.raw'), format: 'raw', readOnly: true });
    const target: ConvertTarget = { format: 'qcow2', path: folder.file('b.qcow2'), clusterSize: 1000 };
    await expect(convertDisk(ring, source, target)).rejects.toThrow(/cluster size/);
    expect(readdirSync(folder.path)).toEqual(['a.raw']);
  });
});

describe.skipIf(noQemuTools !== undefined)('commit', () => {
  test.each(['raw', 'qcow2'] as const)('brings what an overlay has into a %s file below', async (format) => {
    const bytes = sampleBytes(4 * MIB);
    writeFileSync(folder.file('a.raw'), bytes);
    qemuImg('convert', '-f', 'raw', '-O', format, folder.file('a.raw'), folder.file('base'));
    const overlay = folder.file('overlay.qcow2');
    await createOverlay(ring, overlay, { name: 'base', format }, { size: 5 * MIB });
    await write(overlay, 100_352, new Uint8Array(300_032).fill(9));
    await write(overlay, 5 * MIB - 512, new Uint8Array(512).fill(8));
    qemuIo(overlay, 'write -z 2M 128k');
    const before = contentOf(overlay);

    await commitOverlay(ring, overlay);
    expect(isSame(contentOf(overlay), before)).toBe(true);
    qemuImg('convert', '-f', format, '-O', 'raw', folder.file('base'), folder.file('below.raw'));
    expect(isSame(readFileSync(folder.file('below.raw')), before)).toBe(true);
    expect(qemuCheck(overlay)).not.toHaveProperty('leaks');
    // Its record of the file below is of now: it opens.
    await write(overlay, 0, new Uint8Array(512));
  });

  test('is refused where nothing lies below', async () => {
    await createQcow2(folder.file('a.qcow2'), { size: MIB });
    await expect(commitOverlay(ring, folder.file('a.qcow2'))).rejects.toThrow(/no backing file/);
  });
});

describe.skipIf(noQemuTools !== undefined)('rebase', () => {
  async function overlayOn(bytes: Uint8Array): Promise<string> {
    writeFileSync(folder.file('old.raw'), bytes);
    const overlay = folder.file('overlay.qcow2');
    await createOverlay(ring, overlay, { name: 'old.raw', format: 'raw' });
    await write(overlay, MIB + 4096, new Uint8Array(70_144).fill(5));
    return overlay;
  }

  test('to another file keeps what is read, and copies no more than the differences', async () => {
    const old = sampleBytes(4 * MIB);
    const overlay = await overlayOn(old);
    const before = contentOf(overlay);
    const other = Uint8Array.from(old);
    other.fill(1, 3 * MIB, 3 * MIB + 1000);
    writeFileSync(folder.file('new.raw'), other.subarray(0, 3.5 * MIB));
    await rebaseOverlay(ring, overlay, { name: 'new.raw', format: 'raw' });
    expect(isSame(contentOf(overlay), before)).toBe(true);
    expect(imageInfo(ring, overlay, 'qcow2').qcow2).toMatchObject({ backingFile: 'new.raw' });
    expect(imageInfo(ring, overlay, 'qcow2').allocatedSize).toBeLessThan(1.5 * MIB);
    expect(qemuCheck(overlay)).not.toHaveProperty('leaks');
  });

  test('to none keeps what is read', async () => {
    const overlay = await overlayOn(sampleBytes(4 * MIB, 3));
    const before = contentOf(overlay);
    await rebaseOverlay(ring, overlay, undefined);
    expect(isSame(contentOf(overlay), before)).toBe(true);
    expect(imageInfo(ring, overlay, 'qcow2').qcow2).not.toHaveProperty('backingFile');
  });

  test('unsafe only writes the name down', async () => {
    const overlay = await overlayOn(sampleBytes(4 * MIB));
    writeFileSync(folder.file('new.raw'), new Uint8Array(4 * MIB).fill(2));
    await rebaseOverlay(ring, overlay, { name: 'new.raw', format: 'raw' }, { unsafe: true });
    expect(contentOf(overlay)[0]).toBe(2);
  });
});

describe.skipIf(noQemuTools !== undefined)('join', () => {
  /** base <- low <- middle <- top, of which each has something of its own, zeros too, and another size. */
  async function chain(): Promise<string> {
    writeFileSync(folder.file('base.raw'), sampleBytes(4 * MIB, 5));
    const layers = [
      ['low', { name: 'base.raw', format: 'raw' }, 3 * MIB],
      ['middle', { name: 'low.qcow2', format: 'qcow2' }, 4 * MIB],
      ['top', { name: 'middle.qcow2', format: 'qcow2' }, 5 * MIB],
    ] as const;
    for (const [i, [name, backing, size]] of layers.entries()) {
      const path = folder.file(`${name}.qcow2`);
      await createOverlay(ring, path, backing, { size, frozen: backing.format === 'qcow2' });
      await write(path, i * 300_032, sampleBytes(700_416, 10 + i));
      qemuIo(path, `write -z ${i + 1}M 200k`);
    }
    return folder.file('top.qcow2');
  }

  test.each([1, 2])('of an overlay and the %i below it reads as the overlay does', async (below) => {
    const overlay = await chain();
    const before = contentOf(overlay);
    const target = folder.file('joined.qcow2');
    await joinLayers(ring, { overlay, below, target });
    expect(isSame(contentOf(target), before)).toBe(true);
    expect(isSame(contentOf(overlay), before)).toBe(true);
    expect(qemuCheck(target)).not.toHaveProperty('leaks');
    expect(qemuCheck(target)).not.toHaveProperty('corruptions');
    const backingFile = below === 1 ? 'low.qcow2' : 'base.raw';
    expect(imageInfo(ring, target, 'qcow2').qcow2).toMatchObject({ backingFile });
  });

  test('may take the place of a layer that others are above', async () => {
    const overlay = await chain();
    const before = contentOf(overlay);
    await joinLayers(ring, {
      overlay: folder.file('middle.qcow2'),
      below: 1,
      target: folder.file('joined.qcow2'),
    });
    renameSync(folder.file('joined.qcow2'), folder.file('middle.qcow2'));
    rmSync(folder.file('low.qcow2'));
    expect(isSame(contentOf(overlay), before)).toBe(true);
    // Ours opens it too, since it is told that what is below is frozen.
    await write(overlay, 0, new Uint8Array(512));
  });

  test('of more layers than there are is refused, and leaves nothing', async () => {
    const overlay = await chain();
    const target = folder.file('joined.qcow2');
    await expect(joinLayers(ring, { overlay, below: 4, target })).rejects.toThrow(/not 4 layers/);
    expect(existsSync(target)).toBe(false);
  });

  test('of a file that is no qcow2 is refused', async () => {
    const overlay = await chain();
    const target = folder.file('joined.qcow2');
    await expect(joinLayers(ring, { overlay, below: 3, target })).rejects.toThrow(/base\.raw.*raw/);
    expect(existsSync(target)).toBe(false);
  });
});

describe.skipIf(noQemuTools !== undefined)('map', () => {
  test('says where everything is, through all layers', async () => {
    qemuImg('create', '-f', 'qcow2', folder.file('base.qcow2'), '1M');
    qemuIo(folder.file('base.qcow2'), 'write 0 128k');
    qemuImg('create', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', folder.file('a.qcow2'), '2M');
    qemuIo(folder.file('a.qcow2'), 'write 64k 64k', 'write -z 192k 64k');
    const disk = await openDisk(ring, { path: folder.file('a.qcow2'), format: 'qcow2', readOnly: true });
    const extents: DiskExtent[] = [];
    for await (const extent of mapDisk(disk)) extents.push(extent);
    await disk.close();
    const k = 1024;
    expect(extents.map(({ start, length, depth, kind }) => [start, length, depth, kind])).toEqual([
      [0, 64 * k, 1, 'data'],
      [64 * k, 64 * k, 0, 'data'],
      [128 * k, 64 * k, 1, 'none'],
      [192 * k, 64 * k, 0, 'zero'],
      [256 * k, 768 * k, 1, 'none'],
      [1024 * k, 1024 * k, 0, 'none'],
    ]);
    const theirs = JSON.parse(qemuImg('map', '--output=json', folder.file('a.qcow2'))) as {
      offset?: number;
    }[];
    expect(theirs.flatMap(({ offset }) => offset ?? [])).toEqual(
      extents.flatMap(({ offset }) => offset ?? []),
    );
  });
});

describe.skipIf(noQemuTools !== undefined)('resize', () => {
  test('makes a disk larger than its L1 table, and zeros where nothing was', async () => {
    const path = folder.file('a.qcow2');
    await createQcow2(path, { size: MIB + 512, clusterSize: 4096 });
    await write(path, MIB, new Uint8Array(512).fill(3));
    const disk = await openDisk(ring, { path, format: 'qcow2' });
    await disk.resize(2 ** 33);
    await disk.close();
    expect(imageInfo(ring, path, 'qcow2').virtualSize).toBe(2 ** 33);
    qemuIo(path, `read -P 3 ${MIB} 512`, `read -P 0 ${MIB + 512} 1M`, `read -P 0 ${2 ** 33 - MIB} 1M`);
    expect(qemuCheck(path)).not.toHaveProperty('leaks');
  });

  test('makes a disk smaller, and gives space back', async () => {
    const path = folder.file('a.qcow2');
    await createQcow2(path, { size: 8 * MIB });
    await write(path, 0, new Uint8Array(8 * MIB).fill(3));
    const disk = await openDisk(ring, { path, format: 'qcow2' });
    await disk.resize(MIB + 512);
    await disk.resize(2 * MIB);
    await disk.close();
    qemuIo(path, `read -P 3 0 ${MIB + 512}`, `read -P 0 ${MIB + 512} ${MIB - 512}`);
    expect(qemuCheck(path)).not.toHaveProperty('leaks');
    expect(imageInfo(ring, path, 'qcow2').allocatedSize).toBeLessThan(2 * MIB);
  });

  test('is refused where the size is none', async () => {
    await createQcow2(folder.file('a.qcow2'), { size: MIB });
    const disk = await openDisk(ring, { path: folder.file('a.qcow2'), format: 'qcow2' });
    await expect(disk.resize(1000)).rejects.toThrow(/no size/);
    await expect(disk.resize(2 ** 60)).rejects.toThrow(/no size/);
    expect(disk.size).toBe(MIB);
    await disk.close();
  });
});

describe.skipIf(noQemuTools !== undefined)('check', () => {
  async function damaged(change: (view: DataView) => void): Promise<string> {
    const path = folder.file('a.qcow2');
    await createQcow2(path, { size: 8 * MIB });
    await write(path, 0, new Uint8Array(MIB).fill(3));
    const bytes = readFileSync(path);
    change(new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
    writeFileSync(path, bytes);
    return path;
  }

  const blockOf = (view: DataView): number => view.getUint32(view.getUint32(52) + 4);

  test.each<[string, (view: DataView) => void, number, number]>([
    ['counts that are too high', (view) => view.setUint16(blockOf(view) + 12, 7), 0, 1],
    ['counts that are too low', (view) => view.setUint16(blockOf(view) + 12, 0), 1, 0],
    ['a refcount block that is missing', (view) => view.setUint32(view.getUint32(52) + 4, 0), 20, 0],
  ])('finds and mends %s', async (_name, change, errors, leaks) => {
    const path = await damaged(change);
    const file = new RingFile(ring, path, false);
    const found = await checkImage(file);
    expect(found.leaks).toBe(leaks);
    expect(found.errors).toBeGreaterThanOrEqual(errors);
    await checkImage(file, { repair: 'all' });
    file.close();
    expect(qemuCheck(path)).toMatchObject({ 'check-errors': 0 });
    expect(qemuCheck(path)).not.toHaveProperty('corruptions');
    expect(qemuCheck(path)).not.toHaveProperty('leaks');
    expect(
      contentOf(path)
        .subarray(0, MIB)
        .every((byte) => byte === 3),
    ).toBe(true);
  });

  test('repairs no error where only leaks may be mended', async () => {
    const path = await damaged((view) => view.setUint16(blockOf(view) + 12, 0));
    const file = new RingFile(ring, path, false);
    await checkImage(file, { repair: 'leaks' });
    file.close();
    expect(qemuCheck(path).corruptions).toBeGreaterThan(0);
  });
});

test('an image is not made over a file that is there', async () => {
  writeFileSync(folder.file('a.qcow2'), 'precious');
  await expect(createQcow2(folder.file('a.qcow2'), { size: MIB })).rejects.toThrow(/such a file already/);
  expect(existsSync(folder.file('a.qcow2'))).toBe(true);
  expect(readFileSync(folder.file('a.qcow2'), 'utf8')).toBe('precious');
});
