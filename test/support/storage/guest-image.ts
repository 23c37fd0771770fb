/** Disks as guests have them, made by the programs that make them for real. */
import { execa } from 'execa';
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { diskTool } from './disk-tools.ts';

const MIB = 2 ** 20;

/** Files by their paths, without a slash at the start; one at the end makes an empty directory. */
export type Tree = Readonly<Record<string, string | Uint8Array | { readonly link: string }>>;

/** Writes the files to a folder of the host. */
export function writeTree(folder: string, tree: Tree): void {
  for (const [path, content] of Object.entries(tree)) {
    const full = join(folder, path);
    mkdirSync(path.endsWith('/') ? full : dirname(full), { recursive: true });
    if (path.endsWith('/')) continue;
    if (typeof content === 'string' || content instanceof Uint8Array) writeFileSync(full, content);
    else symlinkSync(content.link, full);
  }
}

function withFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'tsvm-tree-'));
  return work(folder).finally(() => rmSync(folder, { recursive: true, force: true }));
}

function newFile(path: string, size: number): void {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
}

/** What Debian 12 gives to ext4, and no answer of the host's mke2fs.conf. */
const EXT4 = [
  '-t',
  'ext4',
  '-O',
  'has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize',
];

export type ExtOptions = {
  /** in MiB; default 8 */
  readonly size?: number;
  readonly uuid?: string;
  readonly label?: string;
  /** instead of those for ext4 as Debian has it */
  readonly args?: readonly string[];
};

/** @param tree files, or a folder of the host */
export async function makeExt(path: string, tree: Tree | string, options: ExtOptions = {}): Promise<void> {
  const { size = 8, uuid, label, args = EXT4 } = options;
  await withFolder(async (folder) => {
    if (typeof tree !== 'string') writeTree(folder, tree);
    newFile(path, size * MIB);
    const names = [
      ...(uuid === undefined ? [] : ['-U', uuid]),
      ...(label === undefined ? [] : ['-L', label]),
    ];
    const source = typeof tree === 'string' ? tree : folder;
    await diskTool('mke2fs', ['-q', '-F', '-I', '256', ...args, ...names, '-d', source, path]);
  });
}

export type FatOptions = {
  /** in MiB; default 8 */
  readonly size?: number;
  /** default: what mkfs.vfat takes for the size */
  readonly bits?: 12 | 16 | 32;
  /** eight hexadecimal digits */
  readonly id?: string;
  readonly label?: string;
  readonly args?: readonly string[];
};

export async function makeFat(path: string, tree: Tree, options: FatOptions = {}): Promise<void> {
  const { size = 8, bits, id, label, args = [] } = options;
  newFile(path, size * MIB);
  const names = [...(id === undefined ? [] : ['-i', id]), ...(label === undefined ? [] : ['-n', label])];
  await diskTool('mkfs.vfat', [...(bits === undefined ? [] : ['-F', String(bits)]), ...names, ...args, path]);
  await withFolder(async (folder) => {
    writeTree(folder, tree);
    const tops = [...new Set(Object.keys(tree).map((name) => join(folder, name.split('/')[0]!)))];
    if (tops.length > 0) await diskTool('mtools', ['-c', 'mcopy', '-s', '-i', path, ...tops, '::']);
  });
}

export type XfsOptions = {
  /** in MiB; default 64 */
  readonly size?: number;
  readonly uuid?: string;
  readonly args?: readonly string[];
};

export async function makeXfs(path: string, tree: Tree, options: XfsOptions = {}): Promise<void> {
  const { size = 64, uuid, args = [] } = options;
  newFile(path, size * MIB);
  await withFolder(async (folder) => {
    writeTree(folder, tree);
    const prototype = join(folder, '..', `${basename(folder)}.prototype`);
    writeFileSync(prototype, ['unused', '0 0', 'd--755 0 0', ...prototypeOf(folder), '$', ''].join('\n'));
    const id = uuid === undefined ? [] : ['-m', `uuid=${uuid}`];
    // Smaller than what mkfs.xfs takes for useful
    await diskTool('mkfs.xfs', ['-q', '-f', '--unsupported', ...id, ...args, '-p', prototype, path]).finally(
      () => rmSync(prototype),
    );
  });
}

/** The files of a folder, as mkfs.xfs(8) takes them; their names have no spaces. */
function prototypeOf(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return [`${entry.name} d--755 0 0`, ...prototypeOf(path), '$'];
    if (entry.isSymbolicLink()) return [`${entry.name} l--777 0 0 ${readlinkSync(path)}`];
    return [`${entry.name} ---644 0 0 ${path}`];
  });
}

export type PartitionPlan = {
  /** a file with its content; without one it has zeros */
  readonly image?: string;
  /** as sfdisk(8) takes it; default Linux */
  readonly type?: string;
  readonly uuid?: string;
  readonly name?: string;
  /** in MiB */
  readonly size: number;
};

/**
 * Partitions one after the other from 1 MiB on. With `dos` the fifth and later ones are logical: give the fourth the
 * type `extended`, with the size of all that follow and 1 MiB for each.
 */
export async function makeDisk(
  path: string,
  label: 'gpt' | 'dos',
  partitions: readonly PartitionPlan[],
): Promise<void> {
  const isExtended = (plan: PartitionPlan): boolean => plan.type === 'extended';
  let at = 1;
  const lines = [`label: ${label}`];
  if (label === 'dos') lines.push('label-id: 0xdeadbeef');
  const places = partitions.map((plan, i) => {
    // A logical partition has its table before it.
    if (label === 'dos' && i >= 4) at++;
    const place = at;
    const names = [
      ...(plan.uuid === undefined ? [] : [`uuid=${plan.uuid}`]),
      ...(plan.name === undefined ? [] : [`name="${plan.name}"`]),
    ];
    lines.push(
      [`start=${place}MiB`, `size=${plan.size}MiB`, `type=${plan.type ?? 'linux'}`, ...names].join(', '),
    );
    if (!isExtended(plan)) at += plan.size;
    return place;
  });
  newFile(path, (at + 1) * MIB);
  await diskTool('sfdisk', ['--quiet', path], lines.join('\n'));
  for (const [i, { image }] of partitions.entries()) {
    if (image === undefined) continue;
    await execa('dd', [
      `if=${image}`,
      `of=${path}`,
      'bs=1M',
      `seek=${places[i]!}`,
      'conv=sparse,notrunc',
      'status=none',
    ]);
  }
}
