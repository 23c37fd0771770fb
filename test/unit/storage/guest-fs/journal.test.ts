/** File systems of guests that run, or were killed: what was written last is in the journal alone. */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openExt4 } from '../../../../src/storage/guest-fs/ext4/ext4.ts';
import { PathWalker, type GuestFs } from '../../../../src/storage/guest-fs/guest-fs.ts';
import { memoryReader } from '../../../../src/storage/guest-fs/reader.ts';
import { Random } from '../../../fuzz/random.ts';
import { canLoop, whileMounted } from '../../../support/scratch-mounts.ts';
import { diskTool } from '../../../support/storage/disk-tools.ts';
import { makeExt, writeTree } from '../../../support/storage/guest-image.ts';
import { expectTree, randomTree } from '../../../support/storage/random-tree.ts';

if (!canLoop) console.warn('skipped: file systems of a running kernel, which take root and loop devices');

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'tsvm-journal-'))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const open = async (bytes: Uint8Array): Promise<GuestFs> =>
  new PathWalker(await openExt4(memoryReader(bytes)));
const textOf = async (fs: GuestFs, path: string): Promise<string> =>
  Buffer.from(await fs.readFile(path, 100_000)).toString();
const features = (names: string, ...more: string[]): string[] => ['-t', 'ext4', '-O', names, ...more];

/** INCOMPAT_RECOVER, of the features in the superblock */
const isUnrecovered = (bytes: Buffer): boolean => (bytes.readUInt32LE(1024 + 0x60) & 4) !== 0;

describe('what debugfs writes to a journal is read from there', () => {
  let count = 0;
  /** Two blocks of text, in the place of which the journal has others. */
  async function journaled(
    args: readonly string[],
    commands: (block: number) => readonly string[],
  ): Promise<Buffer> {
    const path = join(folder, `debugfs-${count++}.img`);
    await makeExt(path, { file: 'old '.repeat(2048) }, { size: 16, args });
    const block = Number((await diskTool('debugfs', ['-R', 'bmap /file 0', path])).trim());
    await diskTool('debugfs', ['-w', '-f', '-', path], commands(block).join('\n'));
    const bytes = readFileSync(path);
    expect(isUnrecovered(bytes)).toBe(true);
    return bytes;
  }
  const newer = (): string => {
    const path = join(folder, 'newer');
    writeFileSync(path, 'new '.repeat(1024));
    return path;
  };

  test.each([
    ['without checksums', features('has_journal,extent'), 'jo'],
    ['of 64 bits', features('has_journal,extent,64bit'), 'jo'],
    ['with checksums of version 3', features('has_journal,extent,64bit,metadata_csum'), 'jo -c'],
    ['with checksums of version 2', features('has_journal,extent,metadata_csum'), 'jo -c -v 2'],
  ])('%s', async (_name, args, open_) => {
    const fs = await open(
      await journaled([...args, '-b', '4096'], (block) => [open_, `jw -b ${block} ${newer()}`, 'jc']),
    );
    expect(await textOf(fs, '/file')).toBe('new '.repeat(1024) + 'old '.repeat(1024));
    expect(fs.notes).toEqual([]);
  });

  test('a block that begins like those of the journal', async () => {
    const content = Buffer.alloc(4096, 'x');
    content.set([0xc0, 0x3b, 0x39, 0x98]);
    const path = join(folder, 'escaped');
    writeFileSync(path, content);
    const bytes = await journaled([...features('has_journal,extent'), '-b', '4096'], (block) => [
      'jo',
      `jw -b ${block} ${path}`,
      'jc',
    ]);
    const file = await (await open(bytes)).open('/file');
    const read = new Uint8Array(4096);
    await file.read(0, read);
    expect(Buffer.from(read).equals(content)).toBe(true);
  });

  test('not where the block was revoked later', async () => {
    const fs = await open(
      await journaled([...features('has_journal,extent'), '-b', '4096'], (block) => [
        'jo',
        `jw -b ${block} ${newer()}`,
        `jw -r ${block}`,
        'jc',
      ]),
    );
    expect(await textOf(fs, '/file')).toBe('old '.repeat(2048));
  });

  test('again where it was written again after that', async () => {
    const fs = await open(
      await journaled([...features('has_journal,extent'), '-b', '4096'], (block) => [
        'jo',
        `jw -r ${block}`,
        `jw -b ${block} ${newer()}`,
        'jc',
      ]),
    );
    expect(await textOf(fs, '/file')).toMatch(/^new /);
  });

  test('not where the transaction was never committed', async () => {
    const newest = join(folder, 'newest');
    writeFileSync(newest, 'last'.repeat(1024));
    const bytes = await journaled([...features('has_journal,extent'), '-b', '4096'], (block) => [
      'jo',
      `jw -b ${block} ${newer()}`,
      `jw -b ${block} ${newest}`,
      'jc',
    ]);
    expect(await textOf(await open(bytes), '/file')).toMatch(/^last/);
    // The last block of the journal that commits
    bytes[bytes.lastIndexOf(Buffer.from([0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]))] = 0;
    expect(await textOf(await open(bytes), '/file')).toMatch(/^new /);
  });

  test('not where the journal is damaged: a note says so', async () => {
    const bytes = await journaled([...features('has_journal,extent'), '-b', '4096'], (block) => [
      'jo',
      `jw -b ${block} ${newer()}`,
      'jc',
    ]);
    // The superblock of the journal: its magic number, and its kind.
    const at = bytes.indexOf(Buffer.from([0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4]));
    bytes[at] = 0;
    const fs = await open(bytes);
    expect(await textOf(fs, '/file')).toBe('old '.repeat(2048));
    expect(fs.notes).toEqual([
      'the journal is needed and cannot be read (it has no superblock): the last changes are missing',
    ]);
  });
});

describe.runIf(canLoop)('what Linux has written to a mounted file system', () => {
  const tree = randomTree(new Random(3));

  /** @returns the disk as it is while it is mounted, all files synced */
  async function mounted(args: readonly string[], mountOptions: string): Promise<Buffer> {
    const path = join(folder, 'mounted.img');
    await makeExt(path, {}, { size: 48, args });
    await whileMounted(path, ['-o', `loop,${mountOptions}`], (at) => {
      // Blocks that were directories become parts of files: the journal revokes them.
      for (let round = 0; round < 3; round++) {
        writeTree(at, randomTree(new Random(10 + round)));
        sync(at);
        for (const name of new Set(Object.keys(tree).map((file) => file.split('/')[0]!)))
          rmSync(join(at, name), { recursive: true });
      }
      writeTree(at, tree);
      sync(at);
      copyFileSync(path, `${path}.copy`);
    });
    return readFileSync(`${path}.copy`);
  }

  function sync(at: string): void {
    const fd = openSync(at, 'r');
    fsyncSync(fd);
    closeSync(fd);
    execFileSync('sync', ['-f', at]);
  }

  test.each([
    ['ext4 as Debian makes it', features('has_journal,extent,flex_bg,metadata_csum,64bit'), 'commit=300'],
    [
      'ext4 that journals files too',
      features('has_journal,extent,64bit', '-b', '1024'),
      'commit=300,data=journal',
    ],
    ['ext3', ['-t', 'ext3', '-O', 'has_journal,filetype'], 'commit=300'],
    ['ext4 with hashed directories', features('has_journal,extent,dir_index', '-b', '1024'), 'commit=300'],
    ['ext4 with files in inodes', features('has_journal,extent,inline_data,64bit'), 'commit=300'],
  ])('%s', async (_name, args, mountOptions) => {
    const bytes = await mounted(args, mountOptions);
    expect(isUnrecovered(bytes)).toBe(true);
    await expectTree(await open(bytes), tree);
  });
});
