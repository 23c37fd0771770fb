/** Disks of guests with a number changed here and there: read, or refused by an error of one kind, within limits. */
import { mkdir } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { cacheRoot, makeDirectoryOnce } from '../../../images/debian/cache.ts';
import { NotBootableError } from '../../../src/manager/images/boot/error.ts';
import { findBoot } from '../../../src/manager/images/boot/find-boot.ts';
import { GuestFsError } from '../../../src/storage/guest-fs/error.ts';
import { GuestDisk } from '../../../src/storage/guest-fs/guest-disk.ts';
import type { GuestFs } from '../../../src/storage/guest-fs/guest-fs.ts';
import { slice, type ByteReader } from '../../../src/storage/guest-fs/reader.ts';
import { fakeKernel, grubEnv, kernelsIn, mkconfig, ROOT_UUID } from '../../support/cloud-disks.ts';
import { diskTool } from '../../support/storage/disk-tools.ts';
import { makeDisk, makeExt, makeFat, makeXfs, type Tree } from '../../support/storage/guest-image.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

/** Another number here makes the images anew. */
const VERSION = 2;
const READ_LIMIT = 20_000;
const MAX_FILES = 25;
const LARGEST_READ = 100_000;

const TREE: Tree = {
  'etc/os-release': 'ID=fuzz\n',
  'boot/grub/grub.cfg': mkconfig(['6.1.0-1', '6.1.0-2'], '/boot', ROOT_UUID, 'root=/dev/vda1 ro'),
  'boot/grub/grubenv': grubEnv({ saved_entry: '1>2' }),
  ...kernelsIn('boot/', ['6.1.0-1', '6.1.0-2']),
  'loader/entries/a.conf': 'title A\nlinux /boot/vmlinuz-6.1.0-1\noptions x\n',
  tiny: 'tiny',
  middle: 'm'.repeat(100),
};
const LINKS: Tree = {
  vmlinuz: { link: 'boot/vmlinuz-6.1.0-1' },
  loop: { link: 'loop' },
  long: { link: `boot/${'./'.repeat(60)}grub/grub.cfg` },
};
const MANY: Tree = Object.fromEntries(
  Array.from({ length: 120 }, (_, i) => [`many/${'n'.repeat(i % 40)}${i}`, '']),
);

async function makeImages(folder: string): Promise<void> {
  const file = (name: string): string => join(folder, name);
  const ext = (name: string, args: readonly string[]): Promise<void> =>
    makeExt(file(name), { ...TREE, ...LINKS, ...MANY }, { size: 4, uuid: ROOT_UUID, args });
  await ext('ext4.raw', ['-t', 'ext4', '-b', '1024', '-O', 'extent,64bit,flex_bg,metadata_csum']);
  await ext('inline.raw', ['-t', 'ext4', '-b', '4096', '-O', 'extent,inline_data']);
  await ext('ext2.raw', ['-t', 'ext2', '-b', '1024', '-O', 'filetype']);
  await ext('meta-bg.raw', ['-t', 'ext4', '-b', '1024', '-O', 'extent,64bit,meta_bg,^resize_inode']);
  await ext('journal.raw', ['-t', 'ext4', '-b', '1024', '-O', 'has_journal,extent,64bit']);
  const block = Number((await diskTool('debugfs', ['-R', 'bmap /middle 0', file('journal.raw')])).trim());
  const commands = [
    'jo',
    `jw -b ${block},${block + 1} /dev/zero`,
    `jw -r ${block + 1}`,
    `jw -b ${block} /dev/zero`,
    'jc',
  ];
  await diskTool('debugfs', ['-w', '-f', '-', file('journal.raw')], commands.join('\n'));
  const fat = (name: string, bits: 12 | 16 | 32, size: number, args: readonly string[] = []): Promise<void> =>
    makeFat(
      file(name),
      { ...TREE, 'EFI/x/grub.cfg': 'configfile /boot/grub/grub.cfg\n' },
      { bits, size, args },
    );
  await fat('fat12.raw', 12, 2);
  await fat('fat16.raw', 16, 8, ['-s', '1']);
  await fat('fat32.raw', 32, 34, ['-s', '1']);
  const xfs = (name: string, args: readonly string[]): Promise<void> =>
    makeXfs(file(name), { ...TREE, ...MANY, vmlinuz: { link: 'boot/vmlinuz-6.1.0-1' } }, { size: 24, args });
  await xfs('xfs.raw', ['-b', 'size=1024']);
  await xfs('xfs-v4.raw', ['-m', 'crc=0']);
  await makeDisk(file('gpt.raw'), 'gpt', [
    { image: file('ext4.raw'), size: 4, uuid: ROOT_UUID },
    { image: file('fat12.raw'), size: 2, type: 'uefi' },
  ]);
  await makeDisk(file('mbr.raw'), 'dos', [
    { size: 1 },
    { size: 1 },
    { image: file('fat12.raw'), size: 2 },
    { type: 'extended', size: 6 },
    { image: file('ext4.raw'), size: 4 },
  ]);
}

const NAMES = [
  'ext4',
  'inline',
  'ext2',
  'meta-bg',
  'journal',
  'fat12',
  'fat16',
  'fat32',
  'xfs',
  'xfs-v4',
  'gpt',
  'mbr',
];

type Sample = {
  readonly bytes: Buffer;
  readonly isGpt: boolean;
  /** where something is, but for contents of files */ readonly places: Int32Array;
};

async function samples(): Promise<Sample[]> {
  const folder = join(cacheRoot(), 'test', `guest-fs-${VERSION}`);
  await mkdir(join(cacheRoot(), 'test'), { recursive: true });
  await makeDirectoryOnce(folder, makeImages);
  return NAMES.map((name) => {
    const bytes = readFileSync(join(folder, `${name}.raw`));
    return { bytes, isGpt: name === 'gpt', places: placesOf(bytes) };
  });
}

const GRAIN = 16;
/** The kernels are most of what is there, and where nothing is to be found. */
const NOISE = [
  fakeKernel('6.1.0-1'),
  fakeKernel('6.1.0-2'),
  fakeKernel('initrd of 6.1.0-1', 90_000),
  fakeKernel('initrd of 6.1.0-2', 90_000),
];

function placesOf(bytes: Buffer): Int32Array {
  const noise = new Set(
    NOISE.flatMap((kernel) =>
      Array.from({ length: kernel.length / GRAIN }, (_, i) =>
        kernel.toString('latin1', i * GRAIN, (i + 1) * GRAIN),
      ),
    ),
  );
  const places: number[] = [];
  for (let at = 0; at + GRAIN <= bytes.length; at += GRAIN) {
    const piece = bytes.subarray(at, at + GRAIN);
    if (piece.every((byte) => byte === 0 || byte === 0xff) || noise.has(piece.toString('latin1'))) continue;
    // Texts are long, and every place in them is like any other.
    const isText = piece.filter((byte) => byte >= 0x20 && byte < 0x7f).length > 13;
    if (!isText || at % 256 === 0) places.push(at);
  }
  return Int32Array.from(places);
}

const all = await samples();

const INTERESTING = [
  0, 1, 2, 3, 4, 0x7f, 0x80, 0xff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fff_ffff, 0x8000_0000,
  0xffff_fffe, 0xffff_ffff,
];

/** The sample with other bytes in some places, without a copy of it. */
function damaged(random: Random, { bytes, isGpt, places }: Sample): ByteReader {
  const patches: { at: number; bytes: Buffer }[] = [];
  for (let i = random.between(1, 16); i > 0; i--) {
    // Structures lie together at the start more often than elsewhere.
    const index = random.oneIn(2) ? random.below(places.length) : random.below(Math.min(places.length, 400));
    const at = places[index]! + 2 * random.below(GRAIN / 2 - 1);
    const patch = Buffer.from(bytes.subarray(at, at + random.pick([1, 2, 4])));
    const choice = random.below(5);
    if (choice === 0) patch.fill(random.below(256));
    else if (choice === 1) patch[random.below(patch.length)]! ^= 1 << random.below(8);
    else if (choice === 2) patch.writeUIntLE(random.pick(INTERESTING) % 256 ** patch.length, 0, patch.length);
    else if (choice === 3)
      patch.writeUIntLE(random.below(bytes.length / 1024) % 256 ** patch.length, 0, patch.length);
    else bytes.copy(patch, 0, places[random.below(places.length)]);
    patches.push({ at, bytes: patch });
  }
  const read = (offset: number, target: Uint8Array): void => {
    target.set(bytes.subarray(offset, offset + target.length));
    for (const patch of patches)
      for (let i = 0; i < patch.bytes.length; i++) {
        const to = patch.at + i - offset;
        if (to >= 0 && to < target.length) target[to] = patch.bytes[i]!;
      }
  };
  if (isGpt && random.oneIn(2)) patches.push(...newChecksums(read));
  const size = random.oneIn(10) ? random.below(bytes.length / 512) * 512 : bytes.length;
  const whole: ByteReader = {
    size: bytes.length,
    read: (offset, target) => Promise.resolve(read(offset, target)),
  };
  return slice(whole, 0, size);
}

/** As somebody would make them who means it. */
function newChecksums(read: (offset: number, target: Uint8Array) => void): { at: number; bytes: Buffer }[] {
  const header = Buffer.alloc(92);
  const entries = Buffer.alloc(128 * 128);
  read(512, header);
  read(1024, entries);
  header.writeUInt32LE(crc32(entries), 88);
  header.writeUInt32LE(0, 16);
  header.writeUInt32LE(crc32(header), 16);
  return [{ at: 512, bytes: header }];
}

function expectKnown(error: unknown): void {
  if (!(error instanceof GuestFsError || error instanceof NotBootableError)) throw error;
  if (!/^\P{Cc}{5,10000}$/u.test(error.message)) throw new Error(`no message for a person: ${error.message}`);
}

async function attempt<T>(what: () => Promise<T>): Promise<T | undefined> {
  try {
    return await what();
  } catch (error) {
    expectKnown(error);
    return undefined;
  }
}

async function readAll(fs: GuestFs): Promise<void> {
  const folders = [''];
  for (let left = MAX_FILES; left > 0 && folders.length > 0;) {
    const folder = folders.pop()!;
    for (const name of (await attempt(() => fs.list(`${folder}/`))) ?? []) {
      if (left-- <= 0) return;
      const path = `${folder}/${name}`;
      const node = await attempt(() => fs.lstat(path));
      if (node?.kind === 'directory') folders.push(path);
      else if (node?.kind === 'symlink') await attempt(() => fs.stat(path));
      else await attempt(() => fs.readFile(path, LARGEST_READ));
    }
  }
}

export const guestfsTarget: FuzzTarget = {
  name: 'guestfs',
  run: async (random) => {
    const reader = damaged(random, random.pick(all));
    const disk = await attempt(() => GuestDisk.read(reader, READ_LIMIT));
    if (disk === undefined) return;
    const boot = await attempt(() => findBoot(disk));
    if (boot !== undefined) {
      const { file } = boot.kernel;
      const start = Math.max(0, file.size - 1000);
      await attempt(() => file.read(start, new Uint8Array(file.size - start)));
    }
    for (const volume of disk.volumes) {
      const fs = await attempt(() => volume.open());
      if (fs !== undefined) await readAll(fs);
    }
  },
};
