/** Debian's programs for partitions and file systems, run out of the package cache without installing them. */
import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fetchClosure } from '../../../images/debian/packages.ts';

const PACKAGES = {
  mke2fs: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  'mkfs.vfat': 'dosfstools',
  'fsck.fat': 'dosfstools',
  mtools: 'mtools',
  sfdisk: 'fdisk',
  'mkfs.xfs': 'xfsprogs',
} as const;
export type DiskTool = keyof typeof PACKAGES;

/** What it wrote to its standard output. @throws Error with what it says where it fails */
export async function diskTool(tool: DiskTool, args: readonly string[], input = ''): Promise<string> {
  const { root } = await fetchClosure(PACKAGES[tool]);
  const libraries = ['lib', 'usr/lib'].map((dir) => join(root, dir, 'x86_64-linux-gnu'));
  const program = ['sbin', 'usr/sbin', 'bin', 'usr/bin']
    .map((dir) => join(root, dir, tool))
    .find((path) => existsSync(path));
  if (program === undefined)
    throw new Error(`${PACKAGES[tool]} has no ${tool}; remove ${root} to fetch it anew`);
  const loader = join(root, 'lib64/ld-linux-x86-64.so.2');
  const { stdout } = await execa(loader, ['--library-path', libraries.join(':'), program, ...args], {
    input,
    env: {
      GCONV_PATH: join(root, 'usr/lib/x86_64-linux-gnu/gconv'),
      MKE2FS_CONFIG: '/dev/null',
      LC_ALL: 'C.UTF-8',
    },
  });
  return stdout;
}
