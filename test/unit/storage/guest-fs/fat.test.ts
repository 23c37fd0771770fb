import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openFat } from '../../../../src/storage/guest-fs/fat/fat.ts';
import { PathWalker, type GuestFs } from '../../../../src/storage/guest-fs/guest-fs.ts';
import { memoryReader } from '../../../../src/storage/guest-fs/reader.ts';
import { Random } from '../../../fuzz/random.ts';
import { makeFat, type FatOptions, type Tree } from '../../../support/storage/guest-image.ts';
import { expectTree, randomTree } from '../../../support/storage/random-tree.ts';

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'tsvm-fat-'))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
async function open(tree: Tree, options: FatOptions): Promise<GuestFs> {
  const path = join(folder, `${count++}.img`);
  await makeFat(path, tree, options);
  return new PathWalker(await openFat(memoryReader(readFileSync(path))));
}

describe('random trees read as they were written', () => {
  test.each([
    ['FAT12', { bits: 12, size: 8 }],
    ['FAT16', { bits: 16, size: 16 }],
    ['FAT16 with sectors of 4 KiB', { bits: 16, size: 64, args: ['-S', '4096', '-s', '1'] }],
    ['FAT32', { bits: 32, size: 48, args: ['-s', '1'] }],
  ] as const)('%s', async (_name, options) => {
    const tree = randomTree(new Random(2), { links: false, many: 60 });
    await expectTree(await open(tree, options), tree);
  });
});

test('a file is found by any spelling of its name, and by its short one', async () => {
  const fs = await open({ 'EFI/BOOT/grubx64-signed.efi': 'loader' }, {});
  for (const path of [
    '/EFI/BOOT/grubx64-signed.efi',
    '/efi/boot/GRUBX64-SIGNED.EFI',
    '/efi/boot/grubx6~1.efi',
  ])
    expect(Buffer.from(await fs.readFile(path, 10)).toString()).toBe('loader');
});

test('a file system tells its id and label', async () => {
  const fs = await open({}, { id: '0a1b2c3d', label: 'UEFI' });
  expect([fs.type, fs.uuid, fs.label]).toEqual(['vfat', '0A1B-2C3D', 'UEFI']);
});

test('a chain of clusters that leads in a circle ends as an error', async () => {
  const path = join(folder, 'circle.img');
  await makeFat(path, { file: new Uint8Array(64 * 1024).fill(1) }, { bits: 16, size: 16 });
  const bytes = readFileSync(path);
  const tableAt = bytes.readUInt16LE(14) * bytes.readUInt16LE(11);
  // The file has the first clusters, one after the other: its second one leads back to the first one.
  bytes.writeUInt16LE(2, tableAt + 3 * 2);
  const fs = new PathWalker(await openFat(memoryReader(bytes)));
  const size = 2 ** 31;
  bytes.writeUInt32LE(size, bytes.indexOf('FILE       ') + 28);
  const file = await fs.open('/file');
  expect(file.size).toBe(size);
  await expect(file.read(size - 10, new Uint8Array(10))).rejects.toMatchObject({ code: 'ECORRUPT' });
});
