import type { Command } from 'commander';
import { printJson } from '../disk/options.ts';
import { UsageError } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, type Done, wholeNumber } from '../verb.ts';
import { openStore } from './vms.ts';

type CloneFlags = {
  readonly count?: number;
  readonly start?: true;
  readonly quiet?: true;
  readonly json?: true;
};

const MOST = 1000;
/** processes that are started at a time */
const AT_ONCE = 4;
const HELP = `
NAME is a VM as it is now, and NAME@SNAPSHOT as it was then. What ran goes on in the clones too, when they are started:
memory and disks are shared until somebody writes. Each clone is a machine of its own: its guest's kernel gets new random
numbers, and its agent sets host name, machine-id, clock and network address.

A clone publishes no ports: those of its origin lead there.`;

/** `tsvm clone`: VMs that go on from another one. */
export function addClone(program: Command, done: Done): void {
  addVerb(program, 'clone', 'make VMs that go on from where another one is', [
    'tsvm clone web web2',
    'tsvm clone web@fresh test --count 10 --start',
  ])
    .argument('<source>', 'NAME of a VM, or NAME@SNAPSHOT')
    .argument('<new>', 'name of the new VM')
    .option('-n, --count <n>', 'make so many: NEW-1, NEW-2, …', wholeNumber(1, MOST))
    .option('--start', 'start them at once')
    .option('-q, --quiet', 'print nothing')
    .option('--json', 'print the new names as a JSON array')
    .addHelpText('after', HELP)
    .action(async (text: string, to: string, { count, start, quiet, json }: CloneFlags) => {
      const { cloneNames, cloneVm, parseCloneSource } = await import('../../manager/snapshots/clone.ts');
      const store = openStore();
      const names = cloneNames(to, count);
      await cloneVm(store, sourceOf(parseCloneSource, text), names);
      if (start) {
        const { startVmProcess } = await import('../../manager/vms/lifecycle.ts');
        let next = 0;
        const starter = async (): Promise<void> => {
          while (next < names.length) await startVmProcess(store, names[next++]!);
        };
        await Promise.all(Array.from({ length: AT_ONCE }, starter));
      }
      if (json) printJson(names);
      else if (!quiet && count !== undefined) process.stdout.write(names.map((name) => `${name}\n`).join(''));
      done(EXIT.ok);
    });
}

function sourceOf<T>(parse: (text: string) => T, text: string): T {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(error.message);
  }
}
