import type { Command } from 'commander';

import type { DiskFormat } from '../../storage/open.ts';
import { UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { checkPlace } from './create.ts';
import { addBackingPolicy, formatOption, policyOf, printJson, type BackingFlags } from './options.ts';
import { whileShown } from '../progress.ts';

type RebaseFlags = BackingFlags & {
  readonly backing?: string;
  readonly backingFormat?: DiskFormat;
  readonly unsafe?: true;
  readonly flatten?: true;
  readonly json?: true;
};

const EXAMPLES = [
  'tsvm disk rebase --backing new-base.qcow2 --backing-format qcow2 vm1.qcow2',
  'tsvm disk rebase --flatten vm1.qcow2',
  'tsvm disk rebase --unsafe --backing moved/base.raw --backing-format raw vm1.qcow2',
];

const HELP = `
The overlay reads as before: where the old and the new backing file differ, it gets what the old one has. With
--unsafe only the name is written down, and how the backing file is now: for one that was moved or copied, whose
contents are the same. A rebase that ends early can be done again.`;

/** `tsvm disk rebase`: another backing file, or none. */
export function addRebase(disk: Command, done: Done): void {
  const rebase = addVerb(disk, 'rebase', 'put an overlay on another backing file, or on none', EXAMPLES)
    .argument('<file>', 'qcow2 overlay')
    .option('-b, --backing <file>', 'new backing file, by its name from the folder of the overlay')
    .addOption(formatOption('-F, --backing-format <format>', 'its format, which is recorded'))
    .option('--flatten', 'no backing file any more: all contents are copied into the image')
    .option('-u, --unsafe', 'only write the name down');
  addBackingPolicy(rebase)
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, flags: RebaseFlags) => {
      const backing = backingOf(file, flags);
      const { rebaseOverlay } = await import('../../storage/tools.ts');
      await whileShown(`rebasing ${file}`, (progress) =>
        rebaseOverlay(file, backing, { ...policyOf(flags), unsafe: flags.unsafe === true, progress }),
      );
      if (flags.json)
        printJson({ path: file, backingFile: backing?.name ?? null, backingFormat: backing?.format ?? null });
      else
        process.stdout.write(
          backing === undefined
            ? `${file}: has no backing file\n`
            : `${file}: is on ${backing.name} (${backing.format})\n`,
        );
      done(EXIT.ok);
    });
}

function backingOf(
  file: string,
  { backing, backingFormat, flatten, unsafe }: RebaseFlags,
): { name: string; format: DiskFormat } | undefined {
  if (flatten) {
    if (backing !== undefined) throw new UsageError('--flatten and --backing contradict each other');
    if (unsafe)
      throw new UsageError('--flatten --unsafe would lose the contents of the backing file', 'leave one out');
    return undefined;
  }
  if (backing === undefined || backingFormat === undefined) {
    throw new UsageError(
      'a new backing file and its format are needed: --backing FILE --backing-format FORMAT',
      'or --flatten for none',
    );
  }
  checkPlace(file, backing);
  return { name: backing, format: backingFormat };
}
