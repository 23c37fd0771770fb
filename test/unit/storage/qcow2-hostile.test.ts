/** Images that contradict themselves: refused, or read-only from the moment it shows. */
import { describe, expect, test } from 'vitest';
import { checkImage } from '../../../src/storage/qcow2/check.ts';
import { openImage } from '../../../src/storage/qcow2/open.ts';
import { newImage, openCase, type Geometry } from '../../support/storage/image-case.ts';
import { SimFile } from '../../support/storage/sim-file.ts';

const CLUSTER = 65536;
const MIB = 2 ** 20;
const L1_AT = 44;

type Patch = (view: DataView, bytes: Uint8Array) => void;

function imageWith(patch: Patch, geometry: Geometry = {}): Uint8Array {
  const bytes = newImage({ ...geometry, size: 64 * MIB });
  patch(new DataView(bytes.buffer), bytes);
  return bytes;
}

const openFile = (bytes: Uint8Array, readOnly = false): Promise<unknown> =>
  openImage(new SimFile('hostile.qcow2', bytes, { readOnly }), undefined, { log: () => undefined });

describe('a header is refused', () => {
  test.each<[string, Patch, RegExp]>([
    ['without the magic', (view) => view.setUint32(0, 0), /not a qcow2 image/],
    ['of version 1', (view) => view.setUint32(4, 1), /version 1/],
    ['of version 4', (view) => view.setUint32(4, 4), /version 4/],
    ['with clusters of 256 bytes', (view) => view.setUint32(20, 8), /cluster size/],
    ['with clusters of 4 MiB', (view) => view.setUint32(20, 22), /cluster size/],
    ['of an encrypted image', (view) => view.setUint32(32, 2), /encrypted/],
    ['with an external data file', (view) => view.setUint32(76, 4), /external data file/],
    ['with unknown incompatible features', (view) => view.setUint32(76, 0x40), /unknown features: bit 6/],
    ['with unknown features in the upper half', (view) => view.setUint32(72, 2), /unknown features: bit 33/],
    ['with a compression type and no feature bit', (view) => view.setUint8(104, 1), /compression type/],
    ['with an unknown compression type', (view) => (view.setUint32(76, 8), view.setUint8(104, 7)), /type 7/],
    ['with refcounts of 128 bits', (view) => view.setUint32(96, 7), /refcount width/],
    ['that is too short', (view) => view.setUint32(100, 96), /header's length/],
    ['that is longer than a cluster', (view) => view.setUint32(100, 2 * CLUSTER), /header's length/],
    ['with an L1 table that is too large', (view) => view.setUint32(36, 0x40_0001), /L1 table is too large/],
    ['with an L1 table that is too small', (view) => view.setUint32(24, 1), /L1 table is too small/],
    ['with an L1 table that is not aligned', (view) => view.setUint32(L1_AT, 0x200), /L1 table is at/],
    ['with an L1 table behind the end', (view) => view.setUint32(L1_AT, 0x100_0000), /cut off/],
    ['without a refcount table', (view) => view.setUint32(56, 0), /no refcount table/],
    [
      'with a refcount table that is too large',
      (view) => view.setUint32(56, 129),
      /refcount table is too large/,
    ],
    ['with a refcount table behind the end', (view) => view.setUint32(52, 0x100_0000), /cut off/],
    ['with too many snapshots', (view) => view.setUint32(60, 65537), /too many snapshots/],
    [
      'with a backing file name behind the cluster',
      (view) => (view.setUint32(12, CLUSTER - 2), view.setUint32(16, 5)),
      /outside the header/,
    ],
    [
      'with a backing file name of 2 KiB',
      (view) => (view.setUint32(12, 512), view.setUint32(16, 2048)),
      /too long/,
    ],
    ['with an extension that does not fit', (view) => view.setUint32(116, 0xffff_fff0), /does not fit/],
    ['of an image that was not closed', (view) => view.setUint32(76, 1), /was not closed/],
    ['of an image that is marked as corrupt', (view) => view.setUint32(76, 2), /marked as corrupt/],
  ])('%s', async (_name, patch, message) => {
    await expect(openFile(imageWith(patch))).rejects.toThrow(message);
  });

  test('that is cut off', async () => {
    await expect(openFile(imageWith(() => undefined).slice(0, 100))).rejects.toThrow(/cut off|not a qcow2/);
  });
});

describe('an image that was not closed, or is corrupt', () => {
  test.each([1, 2])('is opened for reading (bit %i)', async (bit) => {
    const image = imageWith((view) => view.setUint32(76, bit));
    await expect(openFile(image, true)).resolves.toBeDefined();
  });

  test('is opened for writing once it was repaired', async () => {
    const file = new SimFile(
      'dirty.qcow2',
      imageWith((view) => view.setUint32(76, 1)),
    );
    await checkImage(file, { repair: 'all' });
    await expect(openFile(file.content)).resolves.toBeDefined();
  });
});

/** Offset of the L2 table of an image that has been written to, and of the data. */
async function written(geometry: Geometry = {}): Promise<{ bytes: Uint8Array; view: DataView; l2: number }> {
  const { user, disk, file } = await openCase(
    imageWith(() => undefined, geometry),
    {},
  );
  await user.write(0, new Uint8Array(4 * CLUSTER).fill(7));
  await disk.close();
  const bytes = Uint8Array.from(file.content);
  const view = new DataView(bytes.buffer);
  return { bytes, view, l2: view.getUint32(view.getUint32(L1_AT) + 4) };
}

describe('a write is refused, and the image is marked as corrupt,', () => {
  test.each<[string, (image: { view: DataView; l2: number }) => number]>([
    ['where data would go to the L1 table', ({ view }) => view.getUint32(L1_AT)],
    ['where data would go to the refcount table', ({ view }) => view.getUint32(52)],
    ['where data would go to a refcount block', ({ view }) => view.getUint32(view.getUint32(52) + 4)],
    ['where data would go to an L2 table', ({ l2 }) => l2],
    ['where data would go behind the end of the file', () => 0x4000_0000],
    ['where an entry is not aligned', () => CLUSTER + 512],
  ])('%s', async (_name, target) => {
    const image = await written();
    image.view.setUint32(image.l2 + 4, target(image));
    const lines: string[] = [];
    const { user, disk, file } = await openCase(image.bytes, {}, undefined, (line) => lines.push(line));
    const before = Uint8Array.from(file.content);

    await expect(user.write(0, new Uint8Array(512))).rejects.toThrow('errno 5');
    await expect(user.write(2 * CLUSTER, new Uint8Array(512))).rejects.toThrow('errno 5');
    expect(lines).toEqual([expect.stringMatching(/corrupt and is read-only/)]);
    expect((await user.read(2 * CLUSTER, 512))[0]).toBe(7);
    await disk.close();
    expect(new DataView(file.content.buffer).getUint32(76)).toBe(2);
    before[79] = 2;
    expect(Buffer.compare(file.content, before)).toBe(0);
  });

  test('where the L2 table would lie on the header', async () => {
    const image = await written();
    const l1 = image.view.getUint32(L1_AT);
    image.view.setUint32(l1 + 4, image.view.getUint32(52));
    const { user } = await openCase(image.bytes, {});
    await expect(user.write(0, new Uint8Array(512))).rejects.toThrow('errno 5');
  });

  test('where the refcounts say that metadata is free', async () => {
    const image = await written();
    const block = image.view.getUint32(image.view.getUint32(52) + 4);
    for (let cluster = 0; cluster < 8; cluster++) image.view.setUint16(block + 2 * cluster, 0);
    const { user } = await openCase(image.bytes, {});
    await expect(user.write(32 * MIB, new Uint8Array(512))).rejects.toThrow('errno 5');
  });
});

describe('opening for writing is refused', () => {
  test('where a refcount block is in the table twice', async () => {
    const image = await written();
    const table = image.view.getUint32(52);
    image.view.setUint32(table + 12, image.view.getUint32(table + 4));
    await expect(openFile(image.bytes)).rejects.toThrow(/twice/);
  });

  test('where a refcount block is behind the end of the file', async () => {
    const image = await written();
    image.view.setUint32(image.view.getUint32(52) + 12, 0x4000_0000);
    await expect(openFile(image.bytes)).rejects.toThrow(/makes no sense/);
  });
});

describe('compressed data that is damaged', () => {
  test('is an I/O error for the guest, and one line in the log', async () => {
    const image = await written();
    image.view.setUint32(image.l2, 0x4000_0000);
    image.view.setUint32(image.l2 + 4, 5 * CLUSTER + 100);
    const lines: string[] = [];
    const { user } = await openCase(image.bytes, {}, undefined, (line) => lines.push(line));
    await expect(user.read(0, 512)).rejects.toThrow('errno 5');
    expect(lines).toEqual([expect.stringMatching(/compressed cluster.*damaged/)]);
  });
});

describe('autoclear features', () => {
  test('are cleared when the image is opened for writing', async () => {
    const file = new SimFile(
      'bitmaps.qcow2',
      imageWith((view) => view.setUint32(92, 5)),
    );
    await openImage(file, undefined);
    expect(new DataView(file.content.buffer).getUint32(92)).toBe(0);
  });

  test('stay when it is only read', async () => {
    const image = imageWith((view) => view.setUint32(92, 5));
    const file = new SimFile('bitmaps.qcow2', image, { readOnly: true });
    await openImage(file, undefined);
    expect(new DataView(file.content.buffer).getUint32(92)).toBe(5);
  });
});
