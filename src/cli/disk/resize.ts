import type { Command } from 'commander';

import { UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, argument, type Done } from '../verb.ts';
import {
  addBackingPolicy,
  addFormat,
  parseDiskSize,
  printJson,
  sourceOf,
  type BackingFlags,
  type FormatFlags,
} from './options.ts';
import { endedBySignals } from '../signals.ts';

type ResizeFlags = FormatFlags & BackingFlags & { readonly shrink?: true; readonly json?: true };
type Change = { readonly sign: '+' | '-' | ''; readonly bytes: number };

const EXAMPLES = [
  'tsvm disk resize --format qcow2 debian.qcow2 40G',
  'tsvm disk resize --format raw data.raw +10G',
  'tsvm disk resize --format qcow2 --shrink debian.qcow2 -- -5G',
];

const HELP = `
A disk that grows has zeros at its end. The guest's partitions and file systems do not change with it; make them
smaller before the disk.`;

function parseChange(text: string): Change {
  const sign = /^[+-]/.exec(text)?.[0] === '+' ? '+' : text.startsWith('-') ? '-' : '';
  return { sign, bytes: parseDiskSize(text.slice(sign.length)) };
}

/** `tsvm disk resize`: another capacity. */
export function addResize(disk: Command, done: Done): void {
  const resize = addVerb(disk, 'resize', 'make a disk larger or smaller', EXAMPLES)
    .argument('<file>', 'image')
    .argument('<size>', 'new size, or +SIZE or -SIZE for a change', argument(parseChange))
    .option('--shrink', 'make it smaller, where what is behind the new end is lost');
  addBackingPolicy(addFormat(resize))
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, change: Change, flags: ResizeFlags) => {
      const { resizeDisk } = await import('../../storage/tools.ts');
      const { oldSize, newSize } = await endedBySignals(() =>
        resizeDisk(sourceOf(file, flags), (before) => {
          const size = { '': change.bytes, '+': before + change.bytes, '-': before - change.bytes }[
            change.sign
          ];
          if (size <= 0) throw new UsageError(`the disk has only ${formatSize(before)} (${before} bytes)`);
          if (size < before && flags.shrink !== true) {
            throw new UsageError(
              `${file} would lose what is behind ${formatSize(size)} of its ${formatSize(before)}`,
              'if that is meant, give --shrink',
            );
          }
          return size;
        }),
      );
      if (flags.json) printJson({ path: file, oldSize, newSize });
      else process.stdout.write(`${file}: ${formatSize(newSize)} (${newSize} bytes)\n`);
      done(EXIT.ok);
    });
}
