/**
 * What a guest's disk would boot by itself, for a VMM that loads kernels from outside: the kernel, its initrds and its
 * command line, by what the disk's boot loader is configured to do.
 */
import { recognize } from '../../../boot/recognize.ts';
import { bytesSource } from '../../../boot/source.ts';
import { BootError } from '../../../boot/types.ts';
import { GuestFsError, printable } from '../../../storage/guest-fs/error.ts';
import type { GuestDisk } from '../../../storage/guest-fs/guest-disk.ts';
import type { GuestFile } from '../../../storage/guest-fs/guest-fs.ts';
import type { Partition } from '../../../storage/guest-fs/partition.ts';
import type { BootEntry } from './entry.ts';
import { NotBootableError } from './error.ts';
import { extlinuxBoot } from './extlinux.ts';
import { grubBoot } from './grub.ts';
import { isRoot, newestKernel } from './kernels.ts';
import { blsOnlyBoot } from './systemd-boot.ts';
import { describePlace, isEsp, namesIn, openVolumes, type Place, type Volumes } from './volumes.ts';

const MIB = 2 ** 20;
export const KERNEL_LIMIT = 128 * MIB;
/** of all together */
export const INITRD_LIMIT = 512 * MIB;
const MAX_INITRDS = 16;
/** COMMAND_LINE_SIZE of x86, with the NUL at its end */
const COMMAND_LINE_LIMIT = 2048;
/** What tells a kernel from other files is within this. */
const HEAD = 0x210;

export type BootFile = {
  /** on the guest's file system */
  readonly path: string;
  /** 0: the disk has no partitions */
  readonly partition: number;
  /** of its file system */
  readonly fsUuid: string;
  readonly file: GuestFile;
};

export type GuestBoot = {
  /** as a menu would have it; printable, like all texts here */
  readonly title: string;
  /** what says so: `GRUB, /boot/grub/grub.cfg on partition 1` */
  readonly source: string;
  readonly kernel: BootFile;
  /** to be loaded one behind the other */
  readonly initrds: readonly BootFile[];
  /** as the guest has it; without what the VMM's console needs */
  readonly commandLine: string;
  /** with the root file system; undefined where that is on no partition that is known */
  readonly rootPartition: Partition | undefined;
  /** what is wrong and could be done without, each one line */
  readonly notes: readonly string[];
};

/**
 * Files can be read as long as the disk is open.
 * @throws NotBootableError, GuestFsError with EIO alone
 */
export async function findBoot(disk: GuestDisk): Promise<GuestBoot> {
  try {
    return await find(disk);
  } catch (error) {
    if (!(error instanceof GuestFsError) || error.code === 'EIO') throw error;
    const code = error.code === 'ETOOBIG' ? 'ETOOBIG' : 'EDAMAGED';
    throw new NotBootableError(code, printable(error.message), { cause: error });
  }
}

async function find(disk: GuestDisk): Promise<GuestBoot> {
  if (disk.volumes.every(({ content }) => content.kind === 'empty'))
    throw new NotBootableError('EEMPTY', 'the disk is empty');
  const volumes = await openVolumes(disk);
  const notes = [...disk.table.notes];
  for (const { partition, fs } of volumes.readable)
    for (const note of fs.notes) notes.push(`partition ${partition.number}: ${note}`);
  for (const { partition, reason } of volumes.others)
    notes.push(`partition ${partition.number} is not read: ${reason}`);
  const { readable } = volumes;
  const entry =
    (await grubBoot(readable, notes)) ??
    (await blsOnlyBoot(readable)) ??
    (await extlinuxBoot(readable)) ??
    (await newestKernel(volumes));
  if (entry === undefined) throw await noKernel(volumes);
  return bootOf(entry, volumes, notes);
}

async function bootOf(entry: BootEntry, volumes: Volumes, notes: readonly string[]): Promise<GuestBoot> {
  const kernel = await located(entry.kernel, entry);
  checkSize('the kernel', kernel.file.size, KERNEL_LIMIT);
  await checkKernel(kernel, entry.kernel);
  if (entry.initrds.length > MAX_INITRDS)
    throw new NotBootableError('ETOOBIG', `${entry.initrds.length} initrds, of at most ${MAX_INITRDS}`);
  const initrds: BootFile[] = [];
  for (const place of entry.initrds) initrds.push(await located(place, entry));
  const total = initrds.reduce((sum, { file }) => sum + file.size, 0);
  checkSize('the initrd', total, INITRD_LIMIT);
  return {
    title: printable(entry.title),
    source: printable(entry.source),
    kernel,
    initrds,
    commandLine: checkedCommandLine(entry.commandLine),
    rootPartition: await rootOf(entry.commandLine, volumes),
    notes: notes.map(printable),
  };
}

async function located(place: Place, { source }: BootEntry): Promise<BootFile> {
  const { volume, path } = place;
  try {
    const file = await volume.fs.open(path);
    return { path: printable(file.path), partition: volume.partition.number, fsUuid: volume.fs.uuid, file };
  } catch (error) {
    if (!(error instanceof GuestFsError) || error.code === 'EIO') throw error;
    const message = `${describePlace(place)} cannot be read (${error.message}), which is what ${source} would boot`;
    throw new NotBootableError('EENTRY', printable(message), { cause: error });
  }
}

function checkSize(what: string, size: number, limit: number): void {
  if (size > limit)
    throw new NotBootableError(
      'ETOOBIG',
      `${what} has ${Math.ceil(size / MIB)} MiB, of at most ${limit / MIB}`,
    );
}

async function checkKernel({ file, path }: BootFile, place: Place): Promise<void> {
  const head = new Uint8Array(Math.min(HEAD, file.size));
  await file.read(0, head);
  try {
    recognize(bytesSource(printable(describePlace({ ...place, path })), head));
  } catch (error) {
    if (!(error instanceof BootError)) throw error;
    throw new NotBootableError('EENTRY', error.message, { cause: error });
  }
}

function checkedCommandLine(text: string): string {
  if (Buffer.byteLength(text) >= COMMAND_LINE_LIMIT)
    throw new NotBootableError('ETOOBIG', `the command line has over ${COMMAND_LINE_LIMIT - 1} bytes`);
  if (printable(text) !== text)
    throw new NotBootableError('EENTRY', 'the command line has control characters in it');
  return text;
}

/** What `root=` means (Linux, init/do_mounts.c), else the one that looks like it. */
async function rootOf(commandLine: string, { readable, others }: Volumes): Promise<Partition | undefined> {
  const value = commandLine
    .split(/\s+/)
    .findLast((word) => word.startsWith('root='))
    ?.slice(5)
    .replaceAll('"', '')
    .replace(/^\/dev\/disk\/by-(uuid|label|partuuid|partlabel)\//, (_, by: string) => `${by.toUpperCase()}=`);
  const partitions = [...readable, ...others].map(({ partition }) => partition);
  if (value !== undefined) {
    const [, by, name] = /^(UUID|LABEL|PARTUUID|PARTLABEL)=(.*)$/.exec(value) ?? [];
    const wanted = name?.toLowerCase();
    if (by === 'PARTUUID') return partitions.find(({ uuid }) => uuid === wanted);
    if (by === 'PARTLABEL') return partitions.find((partition) => partition.name === name);
    if (by === 'UUID')
      return readable.find(({ fs }) => fs.uuid.toLowerCase() === wanted)?.partition ?? onlyOther(others);
    if (by === 'LABEL') return readable.find(({ fs }) => fs.label === name)?.partition ?? onlyOther(others);
    const number = /^\/dev\/(?:[vsh]d[a-z]|xvd[a-z]|(?:nvme\d+n\d+|mmcblk\d+)p)(\d+)$/.exec(value)?.[1];
    if (number !== undefined) return partitions.find((partition) => partition.number === Number(number));
  }
  for (const volume of readable) if (await isRoot(volume)) return volume.partition;
  return undefined;
}

/** The one file system that is not read is the one whose name is not known. */
function onlyOther(others: Volumes['others']): Partition | undefined {
  return others.length === 1 ? others[0]!.partition : undefined;
}

async function noKernel({ readable, others }: Volumes): Promise<NotBootableError> {
  const list = others.map(({ partition, reason }) =>
    partition.number === 0 ? reason : `partition ${partition.number} is ${reason}`,
  );
  for (const volume of readable.filter(isEsp)) {
    const images = (await namesIn({ volume, path: '/EFI/Linux' })).filter((name) => /\.efi$/i.test(name));
    if (images.length > 0) list.push('there are unified kernel images on the EFI partition');
  }
  if (list.length > 0) {
    const code = others.some(({ isDamaged }) => isDamaged) ? 'EDAMAGED' : 'EFILESYSTEM';
    return new NotBootableError(code, printable(`no kernel is where it can be read: ${list.join(', ')}`));
  }
  if (readable.length === 0)
    return new NotBootableError('ENOKERNEL', 'the disk has no file system that is known');
  return new NotBootableError(
    'ENOKERNEL',
    'the disk has no kernel: neither a boot loader names one nor is one in /boot',
  );
}
