import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openExt4 } from '../../../../src/storage/guest-fs/ext4/ext4.ts';
import { PathWalker, type GuestFs } from '../../../../src/storage/guest-fs/guest-fs.ts';
import { memoryReader } from '../../../../src/storage/guest-fs/reader.ts';
import { Random } from '../../../fuzz/random.ts';
import { makeExt, type ExtOptions } from '../../../support/storage/guest-image.ts';
import { expectTree, randomTree } from '../../../support/storage/random-tree.ts';

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'tsvm-ext4-'))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
async function image(tree: Parameters<typeof makeExt>[1], options: ExtOptions = {}): Promise<Uint8Array> {
  const path = join(folder, `${count++}.img`);
  await makeExt(path, tree, options);
  return readFileSync(path);
}

const open = async (bytes: Uint8Array): Promise<GuestFs> =>
  new PathWalker(await openExt4(memoryReader(bytes)));

const extWith = (features: string, blockSize: number, ...more: string[]): ExtOptions => ({
  size: 24,
  args: ['-t', 'ext4', '-b', String(blockSize), '-O', features, ...more],
});

describe('random trees read as they were written', () => {
  test.each([
    ['ext4 as Debian makes it', { size: 24 }],
    ['ext4 with blocks of 1 KiB', extWith('has_journal,extent,flex_bg,metadata_csum,64bit', 1024)],
    ['ext4 with blocks of 64 KiB', { ...extWith('extent,flex_bg', 65536), size: 64 }],
    ['ext4 of 32 bits', extWith('has_journal,extent,dir_index', 4096)],
    ['ext4 with meta block groups', extWith('extent,64bit,meta_bg,^resize_inode', 1024)],
    ['ext4 with files in inodes', extWith('extent,64bit,inline_data,metadata_csum', 4096)],
    ['ext4 with files in inodes of 1 KiB', extWith('extent,inline_data', 4096, '-I', '1024')],
    ['ext4 with bigalloc', { ...extWith('extent,64bit,bigalloc', 4096, '-N', '1024'), size: 64 }],
    ['ext4 with sparse_super2', extWith('extent,64bit,sparse_super2', 1024)],
    ['ext3', { size: 24, args: ['-t', 'ext3', '-O', 'has_journal,filetype,sparse_super'] }],
    ['ext2 with blocks of 1 KiB', { size: 24, args: ['-t', 'ext2', '-b', '1024', '-O', 'filetype'] }],
    ['ext2 without types of entries', { size: 24, args: ['-t', 'ext2', '-b', '4096', '-O', '^filetype'] }],
  ] as const)('%s', async (_name, options) => {
    const tree = randomTree(new Random(1));
    await expectTree(await open(await image(tree, options)), tree);
  });
});

test('a file system tells its type, UUID and label', async () => {
  const uuid = '01234567-89ab-4cde-8f01-23456789abcd';
  const fs = await open(await image({}, { uuid, label: 'cloudimg-rootfs' }));
  expect([fs.type, fs.uuid, fs.label]).toEqual(['ext4', uuid, 'cloudimg-rootfs']);
});

describe('paths', () => {
  let fs: GuestFs;
  beforeAll(async () => {
    fs = await open(
      await image({
        'boot/vmlinuz-6.1.0': 'kernel',
        vmlinuz: { link: 'boot/vmlinuz-6.1.0' },
        'etc/passwd': 'of the guest',
        'a/b/up': { link: '../../../../../etc/passwd' },
        'a/b/absolute': { link: '/etc/passwd' },
        'a/folder': { link: 'b' },
        loop: { link: 'other' },
        other: { link: 'loop' },
        nowhere: { link: 'missing/file' },
      }),
    );
  });
  const read = async (path: string): Promise<string> => Buffer.from(await fs.readFile(path, 100)).toString();

  test('lead through links of files and of folders', async () => {
    expect(await read('/vmlinuz')).toBe('kernel');
    expect(await read('a/folder/absolute')).toBe('of the guest');
  });

  test('never lead out of the root', async () => {
    expect(await read('/a/b/up')).toBe('of the guest');
    expect(await read('/../../../etc/./passwd')).toBe('of the guest');
  });

  test('tell the place of a file without its links', async () => {
    expect((await fs.open('/a/folder/up')).path).toBe('/etc/passwd');
  });

  test.each([
    ['/loop', 'ELOOP'],
    ['/nowhere', 'ENOENT'],
    ['/boot', 'EISDIR'],
    ['/etc/passwd/x', 'ENOENT'],
  ])('%s cannot be read: %s', async (path, code) => {
    await expect(fs.readFile(path, 100)).rejects.toMatchObject({ name: 'GuestFsError', code });
  });

  test('a name with control characters does nothing to a terminal', async () => {
    await expect(fs.readFile('/etc/\x1b[31m\nx', 100)).rejects.toThrow(/^there is no \/etc\/\?\[31m\?x$/);
  });

  test('a file of more than the limit is not read', async () => {
    await expect(fs.readFile('/etc/passwd', 11)).rejects.toMatchObject({ code: 'ETOOBIG' });
  });

  test('a file cannot be read behind its end', async () => {
    const file = await fs.open('/etc/passwd');
    await expect(file.read(1, new Uint8Array(12))).rejects.toMatchObject({ code: 'ECORRUPT' });
  });
});
