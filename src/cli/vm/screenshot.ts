import { writeFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { NAME_HELP } from './vms.ts';

const FORMATS = ['text', 'ansi', 'svg'] as const;
type Format = (typeof FORMATS)[number];
type ScreenshotFlags = {
  readonly format?: Format;
  readonly output?: string;
  readonly columns: number;
  readonly rows: number;
};

const EXAMPLES = ['tsvm screenshot web', 'tsvm screenshot -o console.svg web'];
const HELP = `
It is what a terminal shows after all that the console has said since the VM was started, also of one that has ended.`;
const MOST = 500;

/** `tsvm screenshot`: what a VM's console shows. */
export function addScreenshot(program: Command, done: Done): void {
  addVerb(program, 'screenshot', "print what a VM's console shows, or make a picture of it", EXAMPLES)
    .argument('<name>', NAME_HELP)
    .addOption(
      new Option(
        '-f, --format <format>',
        "format (default: that of the file's name, else ansi on a terminal and text elsewhere)",
      ).choices(FORMATS),
    )
    .option('-o, --output <file>', 'write it to a file')
    .option('--columns <n>', 'width of the console', wholeNumber(1, MOST), 80)
    .option('--rows <n>', 'height of the console', wholeNumber(1, MOST), 24)
    .addHelpText('after', HELP)
    .action(async (name: string, { format, output, columns, rows }: ScreenshotFlags) => {
      const { Vm } = await import('../../manager/vms/vm.ts');
      const screen = await Vm.get(name).screen({ columns, rows });
      const picture = screen[format ?? formatOf(output)]();
      if (output === undefined) process.stdout.write(picture);
      else writeFileSync(output, picture);
      done(EXIT.ok);
    });
}

function formatOf(file: string | undefined): Format {
  if (file === undefined) return process.stdout.isTTY ? 'ansi' : 'text';
  if (file.endsWith('.svg')) return 'svg';
  return file.endsWith('.ans') || file.endsWith('.ansi') ? 'ansi' : 'text';
}
