import type { Command } from 'commander';

import { formatOption, printJson } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { whileShown } from '../progress.ts';
import { formatSize } from '../../manager/sizes.ts';
import { addVerb, type Done } from '../verb.ts';

type ImportFlags = {
  readonly name?: string;
  readonly format?: 'raw' | 'qcow2';
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  readonly user?: string;
  readonly json?: true;
};

const EXAMPLES = [
  'tsvm image import debian.qcow2',
  'tsvm image import --name mine:1 --format raw --kernel vmlinuz --initrd initrd.img --cmdline "root=LABEL=root ro" disk.raw',
];

const HELP = `
The file is copied; holes stay holes. Without --format a file that begins like a qcow2 image is taken for one, and any
other for raw: here the format is recognised, as the file is yours. Of a raw disk that a guest has written to, say
--format raw: what it wrote could look like anything.`;

/** `tsvm image import`: an image from a file. */
export function addImport(image: Command, done: Done): void {
  addVerb(image, 'import', 'make an image of a disk that you have', EXAMPLES)
    .argument('<file>', 'raw or qcow2, without a backing file')
    .option('--name <name>', 'of the image (default: the name of the file)')
    .addOption(formatOption('-f, --format <format>', 'format of the file (default: what it begins like)'))
    .option('--kernel <file>', 'kernel to boot it with (default: the one in it)')
    .option('--initrd <file>', 'initrd for that kernel')
    .option('--cmdline <text>', 'command line for that kernel, without consoles')
    .option('--user <name>', 'the user that cloud-init makes in it')
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, { json, ...options }: ImportFlags) => {
      const { managerPaths } = await import('../../manager/paths.ts');
      const { importImage } = await import('../../manager/images/import.ts');
      const made = await whileShown(`importing ${file}`, (tell) =>
        importImage(managerPaths(), file, { ...options, onProgress: tell }),
      );
      if (json) printJson(made);
      else
        process.stdout.write(`${made.name}: ${made.id}, ${made.format}, ${formatSize(made.virtualSize)}\n`);
      done(EXIT.ok);
    });
}
