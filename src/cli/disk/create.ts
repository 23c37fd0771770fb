import { existsSync } from 'node:fs';
import { dirname, isAbsolute, join, relative } from 'node:path';
import type { Command } from 'commander';

import type { DiskFormat } from '../../storage/open.ts';
import type { NewDisk } from '../../storage/tools.ts';
import { UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';
import { addCreationOptions, qcow2Options, rawPreallocation, type CreationFlags } from './creation.ts';
import {
  addBackingPolicy,
  diskSize,
  formatOption,
  policyOf,
  printJson,
  type BackingFlags,
} from './options.ts';
import { whileShown } from '../progress.ts';
import { endedBySignals } from '../signals.ts';

type CreateFlags = CreationFlags &
  BackingFlags & {
    readonly format?: DiskFormat;
    readonly backing?: string;
    readonly backingFormat?: DiskFormat;
    readonly json?: true;
  };

const EXAMPLES = [
  'tsvm disk create debian.qcow2 20G',
  'tsvm disk create --format raw --preallocation falloc data.raw 100G',
  'tsvm disk create --backing base.qcow2 --backing-format qcow2 vm1.qcow2',
  'tsvm disk create --cluster-size 2M --refcount-bits 1 --extended-l2 big.qcow2 1T',
];

const HELP = `
The name of a backing file goes into the image as it is given: absolute, or relative to the folder of the image. An
overlay is as large as its backing file unless a size is given. While there are overlays, nobody may write to their
backing file: an overlay is refused where that was changed.`;

/** `tsvm disk create`: a new image, or an overlay on another one. */
export function addCreate(disk: Command, done: Done): void {
  const create = addVerb(disk, 'create', 'make an empty image, or an overlay on another image', EXAMPLES)
    .argument('<file>', 'image to make')
    .argument('[size]', 'of the disk, such as 20G', diskSize)
    .addOption(formatOption('-f, --format <format>', 'format of the new image (default: qcow2)'))
    .option('-b, --backing <file>', 'make an overlay on this image, whose name is recorded')
    .addOption(formatOption('-F, --backing-format <format>', 'its format, which is recorded too'));
  addBackingPolicy(addCreationOptions(create))
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, size: number | undefined, flags: CreateFlags) => {
      await createImage(file, size, flags);
      const { diskInfo } = await import('../../storage/tools.ts');
      const [info] = await diskInfo({ path: file, format: flags.format ?? 'qcow2' });
      if (flags.json) printJson(info);
      else process.stdout.write(`${file}: ${info.format}, ${formatSize(info.virtualSize)}\n`);
      done(EXIT.ok);
    });
}

async function createImage(file: string, size: number | undefined, flags: CreateFlags): Promise<void> {
  const { format = 'qcow2', backing, backingFormat, force } = flags;
  const replace = force === true;
  if (backing === undefined) {
    if (backingFormat !== undefined)
      throw new UsageError('--backing-format is given without --backing', "see 'tsvm disk create --help'");
    if (size === undefined)
      throw new UsageError('a disk needs a size', 'give it after the file, such as 20G');
    const { createDisk } = await import('../../storage/tools.ts');
    const disk: NewDisk =
      format === 'raw'
        ? { format, size, preallocation: rawPreallocation(flags), replace }
        : { format, ...qcow2Options(flags), size, replace };
    await whileShown(`creating ${file}`, (tell) => createDisk(file, disk, tell));
    return;
  }
  if (format === 'raw') throw new UsageError('a raw disk has no backing file', 'choose the format qcow2');
  if (backingFormat === undefined) {
    throw new UsageError(
      'a backing file needs its format, which is recorded and never guessed',
      '--backing-format raw or qcow2; `tsvm disk info` tells what an image looks like',
    );
  }
  checkPlace(file, backing);
  if (flags.preallocation !== undefined && flags.preallocation !== 'off')
    throw new UsageError('an overlay cannot be preallocated: it would hide its backing file');
  const { createOverlay } = await import('../../storage/tools.ts');
  await endedBySignals(() =>
    createOverlay(
      file,
      { name: backing, format: backingFormat },
      { ...policyOf(flags), ...qcow2Options(flags), replace, ...(size !== undefined && { size }) },
    ),
  );
}

/** The usual mistake: a name that is right from here. */
export function checkPlace(file: string, backing: string): void {
  const folder = dirname(file);
  if (isAbsolute(backing) || existsSync(join(folder, backing)) || !existsSync(backing)) return;
  throw new UsageError(
    `there is no backing file ${join(folder, backing)}: its name counts from the folder of the image`,
    `did you mean --backing ${relative(folder, backing)}?`,
  );
}
