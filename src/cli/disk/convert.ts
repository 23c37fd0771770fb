import type { Command } from 'commander';

import type { ConvertTarget } from '../../storage/convert.ts';
import type { DiskFormat } from '../../storage/open.ts';
import { UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';
import { addCreationOptions, qcow2Options, rawPreallocation, type CreationFlags } from './creation.ts';
import {
  addBackingPolicy,
  addFormat,
  formatOption,
  printJson,
  sourceOf,
  type BackingFlags,
  type FormatFlags,
} from './options.ts';
import { whileShown } from '../progress.ts';

type ConvertFlags = CreationFlags &
  BackingFlags &
  FormatFlags & { readonly outputFormat?: DiskFormat; readonly compress?: true; readonly json?: true };

const EXAMPLES = [
  'tsvm disk convert --format raw debian.raw debian.qcow2',
  'tsvm disk convert --format qcow2 --output-format raw debian.qcow2 debian.raw',
  'tsvm disk convert --format qcow2 --compress vm1.qcow2 base.qcow2',
];

const HELP = `
The output has all that the input shows, its backing files' contents too, and none of its internal snapshots. What is
zero takes no space. The output has its name only when it is complete.`;

/** `tsvm disk convert`: a copy in another format or layout. */
export function addConvert(disk: Command, done: Done): void {
  const convert = addVerb(disk, 'convert', 'copy an image to another format or layout', EXAMPLES)
    .argument('<input>', 'image to read')
    .argument('<output>', 'image to make')
    .addOption(formatOption('-O, --output-format <format>', 'format of the output (default: qcow2)'))
    .option('-c, --compress', 'qcow2: compress the clusters of the output, by zlib');
  addBackingPolicy(addCreationOptions(addFormat(convert)))
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (input: string, output: string, flags: ConvertFlags) => {
      const target = targetOf(output, flags);
      const { convertDisk, diskInfo } = await import('../../storage/tools.ts');
      await whileShown(`converting ${input}`, (tell) => convertDisk(sourceOf(input, flags), target, tell));
      const [info] = await diskInfo({ path: output, format: target.format });
      if (flags.json) printJson(info);
      else {
        const { virtualSize, allocatedSize } = info;
        process.stdout.write(
          `${output}: ${info.format}, ${formatSize(virtualSize)}, takes ${formatSize(allocatedSize)}\n`,
        );
      }
      done(EXIT.ok);
    });
}

function targetOf(path: string, flags: ConvertFlags): ConvertTarget {
  const { outputFormat = 'qcow2', compress, preallocation = 'off', force } = flags;
  const replace = force === true;
  if (outputFormat === 'raw') {
    if (compress) throw new UsageError('--compress is for qcow2 images', 'choose --output-format qcow2');
    return { format: 'raw', path, replace, preallocation: rawPreallocation(flags) };
  }
  if (compress && flags.compressionType === 'zstd') {
    throw new UsageError(
      '--compress writes zlib only: zstd is read, and images for it can be made empty',
      'leave --compression-type out',
    );
  }
  if (compress && preallocation !== 'off')
    throw new UsageError('--compress and --preallocation contradict each other', 'leave one of them out');
  return { ...qcow2Options(flags), format: 'qcow2', path, replace, compressed: compress === true };
}
