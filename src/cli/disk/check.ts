import type { Command } from 'commander';

import type { CheckResult } from '../../storage/qcow2/check.ts';
import { printable } from '../errors.ts';
import { CHECK_EXIT } from '../exit-codes.ts';
import { addVerb, type Done } from '../verb.ts';
import { printJson } from './options.ts';
import { whileShown } from '../progress.ts';

type CheckFlags = { readonly repair?: true; readonly repairLeaks?: true; readonly json?: true };
type Repair = 'leaks' | 'all' | undefined;

const EXAMPLES = [
  'tsvm disk check debian.qcow2',
  'tsvm disk check --repair debian.qcow2',
  'tsvm disk check --repair-leaks --json debian.qcow2',
];

const HELP = `
Leaks are clusters that count as in use and are not: space is wasted, and nothing else is wrong. Errors put data at
risk. A backing file is not looked at: check it by its own name.

Exit status, as of qemu-img check; after a repair, of what is left:
  0    nothing is wrong
  1    it could not be checked
  2    there are errors (or wrong usage: then nothing is printed on standard output)
  3    there are leaks, and no errors`;

/** `tsvm disk check`: consistency of a qcow2 image, and its repair. */
export function addCheck(disk: Command, done: Done): void {
  addVerb(disk, 'check', 'check a qcow2 image, and repair it', EXAMPLES)
    .argument('<file>', 'qcow2 image')
    .option('-r, --repair', 'write what is right wherever something is wrong')
    .option('--repair-leaks', 'give back clusters that nobody uses, and leave errors as they are')
    .option('--json', 'print a JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, flags: CheckFlags) => {
      const { found, left } = await check(
        file,
        flags.repair ? 'all' : flags.repairLeaks ? 'leaks' : undefined,
      );
      const result = {
        path: file,
        errors: left.errors,
        leaks: left.leaks,
        errorsFixed: Math.max(0, found.errors - left.errors),
        leaksFixed: Math.max(0, found.leaks - left.leaks),
        totalClusters: left.totalClusters,
        allocatedClusters: left.allocatedClusters,
        compressedClusters: left.compressedClusters,
        imageEnd: left.imageEnd,
        messages: found.messages,
      };
      if (flags.json) printJson(result);
      else process.stdout.write(describe(result));
      done(left.errors > 0 ? CHECK_EXIT.errors : left.leaks > 0 ? CHECK_EXIT.leaks : CHECK_EXIT.clean);
    });
}

async function check(
  file: string,
  repair: Repair,
): Promise<{ readonly found: CheckResult; readonly left: CheckResult }> {
  const { checkDisk } = await import('../../storage/tools.ts');
  return whileShown(`checking ${file}`, (progress) =>
    checkDisk(file, { progress, ...(repair && { repair }) }),
  );
}

type Report = Omit<CheckResult, 'messages'> & { readonly path: string; readonly messages: readonly string[] };

function describe(result: Report): string {
  const { path, errors, leaks, errorsFixed, leaksFixed, totalClusters, allocatedClusters } = result;
  const share = totalClusters === 0 ? 0 : (100 * allocatedClusters) / totalClusters;
  const lines = [
    ...result.messages.map(printable),
    ...(errorsFixed + leaksFixed > 0 ? [`${errorsFixed} errors and ${leaksFixed} leaks were repaired`] : []),
    errors + leaks === 0
      ? `${path}: nothing is wrong`
      : `${path}: ${errors} errors, ${leaks} leaked clusters`,
    ...(errors + leaks > 0 ? [`hint: repair it with \`tsvm disk check --repair ${path}\``] : []),
    `${allocatedClusters} of ${totalClusters} clusters (${share.toFixed(1)}%) are allocated, ` +
      `${result.compressedClusters} of them compressed`,
  ];
  return `${lines.join('\n')}\n`;
}
