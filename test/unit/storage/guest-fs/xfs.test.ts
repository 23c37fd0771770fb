import { execFileSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PathWalker, type GuestFs } from '../../../../src/storage/guest-fs/guest-fs.ts';
import { memoryReader } from '../../../../src/storage/guest-fs/reader.ts';
import { openXfs } from '../../../../src/storage/guest-fs/xfs/xfs.ts';
import { Random } from '../../../fuzz/random.ts';
import { canLoop, whileMounted } from '../../../support/scratch-mounts.ts';
import { makeXfs, writeTree, type Tree, type XfsOptions } from '../../../support/storage/guest-image.ts';
import { expectTree, randomTree } from '../../../support/storage/random-tree.ts';

let folder: string;
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'tsvm-xfs-'))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const open = async (path: string): Promise<GuestFs> =>
  new PathWalker(await openXfs(memoryReader(readFileSync(path))));

/** Names without spaces, and no files in folders that are empty: what the program takes. */
const plain = (tree: Tree): Tree =>
  Object.fromEntries(Object.entries(tree).map(([path, content]) => [path.replaceAll(' ', '_'), content]));

describe('random trees read as they were written', () => {
  test.each([
    ['as RHEL 9 makes it', {}],
    ['with blocks of 1 KiB', { args: ['-b', 'size=1024'] }],
    ['with directory blocks of 16 KiB', { args: ['-n', 'size=16384'] }],
    ['with inodes of 2 KiB', { args: ['-i', 'size=2048'] }],
    ['of version 4', { args: ['-m', 'crc=0'] }],
  ] as const)('%s', async (_name, options: XfsOptions) => {
    const path = join(folder, 'proto.img');
    const tree = plain(randomTree(new Random(4), { links: false }));
    const links: Tree = { 'links/near': { link: 'a/b' }, 'links/far': { link: 'x/'.repeat(60) } };
    await makeXfs(path, { ...tree, ...links }, options);
    const fs = await open(path);
    expect(fs.notes).toEqual([]);
    await expectTree(fs, { ...tree, ...links });
  });
});

test('a file system tells its type, UUID and label', async () => {
  const path = join(folder, 'named.img');
  const uuid = '01234567-89ab-4cde-8f01-23456789abcd';
  await makeXfs(path, {}, { uuid, args: ['-L', 'boot'] });
  const fs = await open(path);
  expect([fs.type, fs.uuid, fs.label]).toEqual(['xfs', uuid, 'boot']);
});

describe.runIf(canLoop)('what Linux has written', () => {
  /** @returns the disk while it was mounted, and after it was unmounted */
  async function mounted(write: (at: string) => void): Promise<{ during: string; after: string }> {
    const after = join(folder, 'mounted.img');
    const during = `${after}.during`;
    await makeXfs(after, {}, { args: ['-b', 'size=1024'] });
    await whileMounted(after, ['-t', 'xfs', '-o', 'loop'], (at) => {
      write(at);
      execFileSync('sync', ['-f', at]);
      copyFileSync(after, during);
    });
    return { during, after };
  }

  test('directories with over a thousand names, files in hundreds of pieces, long links', async () => {
    const tree: Record<string, string | Uint8Array | { link: string }> = { ...randomTree(new Random(5)) };
    for (let i = 0; i < 1200; i++) tree[`thousands/${'y'.repeat(30)}${i}`] = '';
    const pieces = new Uint8Array(2 ** 20);
    for (let at = 0; at < pieces.length; at += 4096) pieces.fill(at / 4096 + 1, at, at + 1024);
    const { after } = await mounted((at) => {
      writeTree(at, tree);
      // Each piece between holes is an extent.
      const fd = openSync(join(at, 'pieces'), 'w');
      ftruncateSync(fd, pieces.length);
      for (let place = 0; place < pieces.length; place += 4096) writeSync(fd, pieces, place, 1024, place);
      closeSync(fd);
      symlinkSync('z/'.repeat(500), join(at, 'long link'));
      rmSync(join(at, 'thousands'), { recursive: true });
      writeTree(
        at,
        Object.fromEntries(Object.entries(tree).filter(([path]) => path.startsWith('thousands/'))),
      );
    });
    await expectTree(await open(after), { ...tree, pieces, 'long link': { link: 'z/'.repeat(500) } });
  });

  test('a disk that was in use says that changes may be missing', async () => {
    const { during, after } = await mounted((at) => writeFileSync(join(at, 'file'), 'content'));
    expect((await open(during)).notes).toEqual([
      'XFS was in use: changes that are only in its log are missing',
    ]);
    expect((await open(after)).notes).toEqual([]);
  });
});
