import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GuestDisk, withGuestDisk } from '../../../../src/storage/guest-fs/guest-disk.ts';
import { readPartitions } from '../../../../src/storage/guest-fs/partition-table.ts';
import { limitedReader, memoryReader } from '../../../../src/storage/guest-fs/reader.ts';
import { createOverlay } from '../../../../src/storage/tools.ts';
import { makeDisk, makeExt, makeFat } from '../../../support/storage/guest-image.ts';

const MIB = 2 ** 20;
const ROOT = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709';
const ESP = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b';
const IDS = ['11111111-2222-4333-8444-555555555555', '66666666-7777-4888-9999-aaaaaaaaaaaa'] as const;

let folder: string;
let gpt: Buffer;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-partitions-'));
  const path = join(folder, 'gpt.raw');
  await makeDisk(path, 'gpt', [
    { type: ROOT, uuid: IDS[0], name: 'root', size: 2 },
    { type: ESP, uuid: IDS[1], name: 'EFI system', size: 1 },
  ]);
  gpt = readFileSync(path);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const partitionsOf = async (bytes: Uint8Array) => readPartitions(memoryReader(bytes));
const EXPECTED = [
  { number: 1, offset: MIB, size: 2 * MIB, type: ROOT, uuid: IDS[0], name: 'root' },
  { number: 2, offset: 3 * MIB, size: MIB, type: ESP, uuid: IDS[1], name: 'EFI system' },
];
/** With what `change` does to a copy of it. */
const changed = (bytes: Buffer, change: (copy: Buffer) => void): Buffer => {
  const copy = Buffer.from(bytes);
  change(copy);
  return copy;
};

describe('GPT', () => {
  test('has partitions with types, ids and names', async () => {
    expect(await partitionsOf(gpt)).toEqual({
      kind: 'gpt',
      sectorSize: 512,
      partitions: EXPECTED,
      notes: [],
    });
  });

  test.each([
    ['header', 512 + 40],
    ['entries', 1024 + 32],
  ])('whose %s is damaged is read from its backup', async (what, at) => {
    const table = await partitionsOf(changed(gpt, (copy) => void copy.writeUInt8(0x77, at)));
    expect(table.partitions).toEqual(EXPECTED);
    expect(table.notes).toEqual([expect.stringMatching(`${what} ha.* wrong checksum.*: its backup is used`)]);
  });

  test('whose header is gone is read from its backup', async () => {
    expect((await partitionsOf(changed(gpt, (copy) => copy.fill(0, 512, 1024)))).partitions).toEqual(
      EXPECTED,
    );
  });

  test('of which both are damaged is an error', async () => {
    const bytes = changed(gpt, (copy) => {
      copy.writeUInt8(0x77, 512 + 40);
      copy.writeUInt8(0x77, copy.length - 512 + 40);
    });
    await expect(partitionsOf(bytes)).rejects.toMatchObject({ name: 'GuestFsError', code: 'ECORRUPT' });
  });

  test('on a disk that was cut off has the partitions that are still there', async () => {
    const table = await partitionsOf(gpt.subarray(0, 3 * MIB + 512));
    expect(table.partitions).toEqual(EXPECTED.slice(0, 1));
    expect(table.notes).toEqual(['partition 2 does not lie on the disk']);
  });

  test('that the first sector does not tell of does not count', async () => {
    expect((await partitionsOf(changed(gpt, (copy) => copy.fill(0, 446, 512)))).kind).toBe('none');
  });

  test('of a disk with sectors of 4 KiB', async () => {
    const { sectorSize, partitions } = await partitionsOf(withLargeSectors(gpt));
    expect(sectorSize).toBe(4096);
    expect(partitions).toEqual(EXPECTED);
  });
});

/** The same table as a disk with sectors of 4 KiB has it: sfdisk makes that on such disks alone. */
function withLargeSectors(disk: Buffer): Buffer {
  const large = Buffer.alloc(disk.length);
  disk.copy(large, 0, 0, 512);
  const header = Buffer.from(disk.subarray(512, 512 + 92));
  const entries = Buffer.from(disk.subarray(1024, 1024 + 128 * 128));
  for (const entry of [0, 128]) {
    for (const at of [entry + 32, entry + 40]) {
      const sector = entries.readUInt32LE(at) + (at === entry + 40 ? 1 : 0);
      entries.writeUInt32LE(sector / 8 - (at === entry + 40 ? 1 : 0), at);
    }
  }
  header.writeUInt32LE(crc32(entries), 88);
  header.writeUInt32LE(0, 16);
  header.writeUInt32LE(crc32(header), 16);
  header.copy(large, 4096);
  entries.copy(large, 8192);
  return large;
}

describe('MBR', () => {
  let mbr: Buffer;
  beforeAll(async () => {
    const path = join(folder, 'mbr.raw');
    await makeDisk(path, 'dos', [
      { size: 1 },
      { size: 1, type: 'ef' },
      { size: 1 },
      { size: 5, type: 'extended' },
      { size: 1 },
      { size: 2, type: 'swap' },
    ]);
    mbr = readFileSync(path);
  });

  test('has primary and logical partitions, with ids as Linux makes them', async () => {
    const { kind, partitions } = await partitionsOf(mbr);
    expect(kind).toBe('mbr');
    expect(
      partitions.map(({ number, offset, size, type, uuid }) => [
        number,
        offset / MIB,
        size / MIB,
        type,
        uuid,
      ]),
    ).toEqual([
      [1, 1, 1, '0x83', 'deadbeef-01'],
      [2, 2, 1, '0xef', 'deadbeef-02'],
      [3, 3, 1, '0x83', 'deadbeef-03'],
      [5, 5, 1, '0x83', 'deadbeef-05'],
      [6, 7, 2, '0x82', 'deadbeef-06'],
    ]);
  });

  test('with logical partitions in a circle ends', async () => {
    // The second logical table names the first one as the next.
    const second = 6 * MIB;
    expect(mbr.readUInt16LE(second + 510)).toBe(0xaa55);
    const bytes = changed(mbr, (copy) => {
      copy[second + 446 + 16 + 4] = 5;
      copy.writeUInt32LE(0, second + 446 + 16 + 8);
      copy.writeUInt32LE(2048, second + 446 + 16 + 12);
    });
    const { partitions, notes } = await partitionsOf(bytes);
    expect(partitions.map(({ number }) => number)).toEqual([1, 2, 3, 5, 6]);
    expect(notes).toEqual(['the logical partitions have no end']);
  });
});

describe('a disk', () => {
  test('without partitions is one file system', async () => {
    const path = join(folder, 'whole.raw');
    await makeExt(path, { file: 'whole' });
    const { table, volumes } = await GuestDisk.read(memoryReader(readFileSync(path)));
    expect(table.kind).toBe('none');
    expect(Buffer.from(await (await volumes[0]!.open()).readFile('file', 10)).toString()).toBe('whole');
  });

  test('that is one FAT is not taken for a partition table', async () => {
    const path = join(folder, 'fat.raw');
    await makeFat(path, { file: 'fat' });
    expect((await partitionsOf(readFileSync(path))).kind).toBe('none');
  });

  test('is read through a qcow2 overlay', async () => {
    const root = join(folder, 'root.img');
    await makeExt(root, { 'etc/hostname': 'guest\n' });
    await makeDisk(join(folder, 'base.raw'), 'gpt', [{ image: root, size: 8 }]);
    const path = join(folder, 'overlay.qcow2');
    await createOverlay(path, { name: 'base.raw', format: 'raw' });
    const name = await withGuestDisk({ path, format: 'qcow2' }, async ({ volumes }) =>
      (await volumes[0]!.open()).readFile('/etc/hostname', 100),
    );
    expect(Buffer.from(name).toString()).toBe('guest\n');
  });

  test('whose reading has no end is given up', async () => {
    const reader = limitedReader(memoryReader(gpt), 3);
    await expect(GuestDisk.read(reader)).rejects.toMatchObject({ code: 'ETOOBIG' });
  });

  test.each([
    ['LUKS encryption', 0, 'LUKS\xba\xbe'],
    ['LVM', 512, 'LABELONE'.padEnd(24, '\0') + 'LVM2 001'],
    ['btrfs', 0x10040, '_BHRfS_M'],
    ['swap space', 4086, 'SWAPSPACE2'],
  ])('with %s says so by name', async (name, at, mark) => {
    const bytes = Buffer.alloc(MIB);
    bytes.write(mark, at, 'latin1');
    const { volumes } = await GuestDisk.read(memoryReader(bytes));
    expect(volumes[0]!.content).toEqual({ kind: 'other', name });
    await expect(volumes[0]!.open()).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
      message: `${name} is not read`,
    });
  });
});
