/** Archives of a guest that means harm: nothing is written anywhere but below the folder that they are unpacked to. */
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Header, type HeaderData } from 'tar';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { newTally } from '../../../../src/manager/copy/host-source.ts';
import { placeTree, unpackTree } from '../../../../src/manager/copy/host-target.ts';
import { readTar } from '../../../../src/manager/copy/tar-reader.ts';
import { Random } from '../../../fuzz/random.ts';

let scratch: string;
let tree: string;

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'tsvm-unpack-'));
  mkdirSync(join(scratch, 'inside'));
  mkdirSync(join(scratch, 'outside'));
  tree = join(scratch, 'inside/tree');
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

type Entry = HeaderData & { readonly content?: string };

const folder = (path: string): Entry => ({ path, type: 'Directory', mode: 0o755 });
const file = (path: string, content = 'bad'): Entry => ({ path, type: 'File', mode: 0o644, content });
const link = (path: string, linkpath: string): Entry => ({ path, type: 'SymbolicLink', linkpath });

function archive(...entries: readonly Entry[]): Buffer {
  const parts = entries.flatMap(({ content = '', ...data }) => {
    const header = Buffer.alloc(512);
    new Header({ size: content.length, mtime: new Date(0), ...data }).encode(header);
    return [header, Buffer.from(content), Buffer.alloc((512 - (content.length % 512)) % 512)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

/** In pieces that have nothing to do with blocks. */
async function* inPieces(bytes: Buffer, size = 700): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) {
    await Promise.resolve();
    yield bytes.subarray(at, at + size);
  }
}

const unpack = (bytes: Buffer) => unpackTree(inPieces(bytes), tree, { tally: newTally() });

test.each<[string, Entry[]]>([
  ['a name that goes up', [folder('./t'), file('./t/../../outside/x')]],
  ['a name that begins with going up', [folder('./t'), file('../outside/x')]],
  ['an absolute name', [folder('./t'), file('/etc/tsvm-test')]],
  ['a link in the way', [folder('./t'), link('./t/l', '../../outside'), file('./t/l/x')]],
  [
    'a link deep in the way',
    [folder('./t'), folder('./t/d'), link('./t/d/l', '/'), folder('./t/d/l/e'), file('./t/d/l/e/x')],
  ],
  ['a link as the tree', [link('./t', '../outside'), file('./t/x')]],
  ['a file over a link', [folder('./t'), link('./t/l', '../../outside/x'), file('./t/l')]],
  ['a folder over a link', [folder('./t'), link('./t/l', '../../outside'), folder('./t/l')]],
  ['a hard link to outside', [folder('./t'), { path: './t/h', type: 'Link', linkpath: '../outside/secret' }]],
  [
    'a hard link through a link',
    [
      folder('./t'),
      link('./t/l', '../../outside'),
      { path: './t/h', type: 'Link', linkpath: './t/l/secret' },
    ],
  ],
  [
    'a hard link to a link',
    [
      folder('./t'),
      link('./t/l', '../../outside/secret'),
      { path: './t/h', type: 'Link', linkpath: './t/l' },
    ],
  ],
  ['a file twice', [folder('./t'), file('./t/x'), file('./t/x')]],
  ['a tree twice', [folder('./t'), folder('./t')]],
  ['a file in no folder', [file('./t/x')]],
  ['a file in a file', [file('./t'), file('./t/x')]],
])('refuses %s', async (_, entries) => {
  writeFileSync(join(scratch, 'outside/secret'), 'secret');
  await expect(unpack(archive(...entries))).rejects.toMatchObject({
    code: 'ECOPY',
    side: 'guest',
    message: expect.stringContaining('the guest must not do that') as string,
  });
  expect(readdirSync(join(scratch, 'outside'))).toEqual(['secret']);
  expect(readFileSync(join(scratch, 'outside/secret'), 'utf8')).toBe('secret');
});

test('a link that an earlier copy brought is not followed by a later one', async () => {
  const target = join(scratch, 'target');
  await unpack(archive(folder('./t'), link('./t/l', '../outside')));
  await placeTree(tree, target);
  await unpack(archive(folder('./t'), folder('./t/l'), file('./t/l/x')));
  await expect(placeTree(tree, target)).rejects.toThrow('this is no folder, and what comes is one');
  rmSync(tree, { recursive: true });
  await unpack(archive(folder('./t'), file('./t/l', 'fine')));
  await placeTree(tree, target);
  expect(lstatSync(join(target, 'l')).isFile()).toBe(true);
  expect(readdirSync(join(scratch, 'outside'))).toEqual([]);
});

test.each<[string, Buffer, RegExp]>([
  ['bytes that are none', Buffer.from('x'.repeat(1024)), /a checksum is wrong/],
  ['one that is cut', archive(folder('./t'), file('./t/x', 'y'.repeat(3000))).subarray(0, 2500), /cut off/],
  ['one without its end', archive(folder('./t')).subarray(0, 512), /cut off/],
  ['none', Buffer.alloc(0), /cut off/],
  ['one with nothing in it', Buffer.alloc(1024), /nothing in it/],
  [
    'one that goes on',
    Buffer.concat([archive(folder('./t')), Buffer.alloc(3_000_000)]),
    /goes on after its end/,
  ],
  [
    'a name without end',
    archive({ path: '././@LongLink', type: 'NextFileHasLongPath', content: 'x'.repeat(100_000) }),
    /a header has 100000 bytes/,
  ],
])('is no archive: %s', async (_, bytes, message) => {
  await expect(unpack(bytes)).rejects.toThrow(message);
});

test('an archive is the same however it is cut into pieces', async () => {
  const bytes = archive(
    { path: '././@LongLink', type: 'NextFileHasLongPath', content: `./${'d'.repeat(150)}\0` },
    folder('./d'),
    { path: 'PaxHeader', type: 'ExtendedHeader', content: '24 mtime=1000000000.500\n19 path=./pax-name\n' },
    file('./short', 'content'),
  );
  const read = async (size: number): Promise<unknown[]> => {
    const entries = [];
    for await (const { path, mtime, content } of readTar(inPieces(bytes, size))) {
      const pieces = [];
      for await (const piece of content) pieces.push(piece);
      entries.push([path, mtime, Buffer.concat(pieces).toString()]);
    }
    return entries;
  };
  const whole = await read(bytes.length);
  expect(whole).toEqual([
    [`./${'d'.repeat(150)}`, 0, ''],
    ['./pax-name', 1_000_000_000.5, 'content'],
  ]);
  for (const size of [1, 511, 513]) expect(await read(size)).toEqual(whole);
});

test('damage of all kinds stays inside and ends in an error or a tree', async () => {
  const random = new Random(17);
  const names = ['./t', './t/a', './t/a/b', '../x', '/x', './t/../x', './t/l', './t/l/x', '', '.'];
  const types = ['File', 'Directory', 'SymbolicLink', 'Link', 'FIFO', 'CharacterDevice'] as const;
  for (let round = 0; round < 300; round++) {
    const bytes = archive(
      folder('./t'),
      ...Array.from({ length: random.below(6) }, () => ({
        path: random.pick(names),
        type: random.pick(types),
        linkpath: random.pick([...names, '../../outside', '/']),
        mode: random.below(0o10000),
        content: 'x'.repeat(random.below(2000)),
      })),
    );
    if (random.below(2) === 0) bytes[random.below(bytes.length)] = random.below(256);
    await unpack(bytes).catch((error: unknown) => expect(error).toHaveProperty('message'));
    expect(readdirSync(join(scratch, 'outside'))).toEqual([]);
    expect(readdirSync(scratch).sort()).toEqual(['inside', 'outside']);
    expect(readdirSync(join(scratch, 'inside')).filter((name) => name !== 'tree')).toEqual([]);
    rmSync(tree, { recursive: true, force: true });
  }
});
