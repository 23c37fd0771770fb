import type { Command } from 'commander';
import { MAX_VCPUS } from '../../boot/layout.ts';
import { parseForward } from '../../net/forward.ts';
import { parseCpuTime, parseSize } from '../../manager/sizes.ts';
import type { VmChange } from '../../manager/vms/change.ts';
import { diskSize } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { UsageError } from '../errors.ts';
import { addVerb, argument, type Done, wholeNumber } from '../verb.ts';
import { textsOf } from './base.ts';
import { NAME_HELP, openStore } from './vms.ts';

type SetFlags = {
  readonly mem?: number;
  readonly cpus?: number;
  readonly disk?: number;
  /** false: none */
  readonly publish?: readonly string[] | false;
  readonly cpuLimit?: number | typeof NONE;
  readonly memoryLimit?: number | typeof NONE;
};

const NONE = 'none';

const EXAMPLES = [
  'tsvm set --mem 2G --cpus 4 web',
  'tsvm set --disk 40G web',
  'tsvm set -p 8080:80 -p 2222:22 web',
  'tsvm set --cpu-limit 1.5 --memory-limit none web',
];
const HELP = `
Of a VM that runs, the disk becomes larger at once, memory below that of its start is taken back by its balloon, and limits
change where it was started with limits of the same kind. All else is for the next start.

The ports given are all that the VM has from then on.`;

/** `tsvm set`: changes a VM. */
export function addSet(program: Command, done: Done): void {
  addVerb(program, 'set', "change a VM's memory, CPUs, disk, ports or limits", EXAMPLES)
    .argument('<name>', NAME_HELP)
    .option('--mem <size>', 'RAM, such as 768M or 1.5G', argument(parseSize))
    .option('--cpus <n>', `virtual CPUs, 1 to ${MAX_VCPUS}`, wholeNumber(1, MAX_VCPUS))
    .option('--disk <size>', 'size of its first disk, not smaller than it is', diskSize)
    .option(
      '-p, --publish <ports>',
      'port of this host that leads to one of the guest, as for `tsvm run`; may be given again',
      portsAfter,
    )
    .option('--no-publish', 'no port of this host leads to the guest')
    .option('--cpu-limit <n>', "CPUs' worth of time for its process, or none", orNone(parseCpuTime))
    .option('--memory-limit <size>', 'memory for its process, or none', orNone(parseSize))
    .addHelpText('after', HELP)
    .action(async (name: string, flags: SetFlags) => {
      const change = changeOf(flags);
      if (Object.keys(change).length === 0)
        throw new UsageError('there is nothing to set', "see 'tsvm set --help'");
      const { changeVm } = await import('../../manager/vms/change.ts');
      const later = await changeVm(openStore(), name, change);
      if (later.length > 0)
        process.stderr.write(
          `tsvm: '${name}' has the new ${inWords(later)} after \`tsvm restart ${name}\`\n`,
        );
      done(EXIT.ok);
    });
}

function changeOf({ mem, cpus, disk, publish, cpuLimit, memoryLimit }: SetFlags): VmChange {
  return {
    ...(mem !== undefined && { memory: mem }),
    ...(cpus !== undefined && { cpus }),
    ...(disk !== undefined && { diskSize: disk }),
    ...(publish !== undefined && { publish: publish === false ? [] : publish }),
    ...(cpuLimit !== undefined && { cpuLimit: cpuLimit === NONE ? null : cpuLimit }),
    ...(memoryLimit !== undefined && { memoryLimit: memoryLimit === NONE ? null : memoryLimit }),
  };
}

/** Ports after others, or after `--no-publish`. */
function portsAfter(text: string, previous: readonly string[] | false | undefined): string[] {
  return textsOf(parseForward)(text, previous === false ? undefined : previous);
}

function orNone(parse: (text: string) => number): (text: string) => number | typeof NONE {
  return argument((text) => (text === NONE ? NONE : parse(text)));
}

/** `a`, `a and b`, `a, b and c` */
function inWords(words: readonly string[]): string {
  return words.length < 2 ? words.join() : `${words.slice(0, -1).join(', ')} and ${words.at(-1)!}`;
}
