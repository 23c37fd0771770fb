import { expect } from 'vitest';
import type { GuestFs } from '../../../src/storage/guest-fs/guest-fs.ts';
import type { Random } from '../../fuzz/random.ts';
import type { Tree } from './guest-image.ts';

const SIZES = [
  0,
  1,
  59,
  60,
  61,
  150,
  1023,
  1024,
  1025,
  4096,
  12 * 1024,
  13 * 1024,
  70_000,
  300_000,
  1_100_000,
];

/** Files of sizes around those where formats change their ways, long names, a directory with many files, links. */
export function randomTree(
  random: Random,
  options: { readonly links?: boolean; readonly many?: number } = {},
): Tree {
  const { links = true, many = 400 } = options;
  const tree: Record<string, string | Uint8Array | { link: string }> = { 'empty directory/': '' };
  for (const size of SIZES) tree[`sizes/file of ${size}`] = random.fill(new Uint8Array(size));
  for (let i = 0; i < many; i++) tree[`many/${'x'.repeat(random.between(1, 40))}-${i}`] = String(i);
  tree[`long/${'n'.repeat(250)}`] = 'long name';
  tree['names/Grüße, Welt.txt'] = 'UTF-8';
  tree['a/b/c/d/e/f/deep'] = 'deep';
  // Mostly zeros: holes, where the program that makes the file system makes them.
  const sparse = new Uint8Array(2_000_000);
  for (let i = 0; i < 5; i++) random.fill(sparse.subarray(random.below(1_900_000)).subarray(0, 5000));
  // mke2fs 1.47 loses a hole at the end of a file that it begins inline.
  sparse.set([1, 2, 3], sparse.length - 3);
  tree['sparse'] = sparse;
  if (links) {
    tree['links/short'] = { link: '../sizes/file of 1' };
    tree['links/absolute'] = { link: '/names/Grüße, Welt.txt' };
    tree['links/long'] = { link: `../a/./b/${'./'.repeat(100)}c/d/e/f/deep` };
  }
  return tree;
}

/** Everything of the tree is there, file by file, and nothing else. */
export async function expectTree(fs: GuestFs, tree: Tree): Promise<void> {
  const found: Record<string, string | Uint8Array | { link: string }> = {};
  const walk = async (path: string): Promise<void> => {
    const names = (await fs.list(`/${path}`)).filter((name) => path !== '' || name !== 'lost+found');
    if (names.length === 0 && path !== '') found[`${path}/`] = '';
    for (const name of names) {
      const inner = path === '' ? name : `${path}/${name}`;
      const kind = (await fs.lstat(inner))?.kind;
      if (kind === 'directory') await walk(inner);
      else if (kind === 'symlink') found[inner] = { link: await fs.readLink(inner) };
      else found[inner] = await fs.readFile(inner, 2 ** 24);
    }
  };
  await walk('');
  expect(Object.keys(found).sort()).toEqual(Object.keys(tree).sort());
  for (const [path, content] of Object.entries(tree)) {
    const here = found[path]!;
    if (here instanceof Uint8Array) expect(Buffer.from(content as Uint8Array).equals(here), path).toBe(true);
    else expect(here, path).toEqual(content);
  }
}
