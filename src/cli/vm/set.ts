import { join } from 'node:path';
import type { Command } from 'commander';
import { MAX_VCPUS } from '../../boot/layout.ts';
import { parseSize } from '../../manager/sizes.ts';
import { diskSize } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { UsageError } from '../errors.ts';
import { addVerb, argument, type Done, wholeNumber } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

type SetFlags = { readonly mem?: number; readonly cpus?: number; readonly disk?: number };

const EXAMPLES = ['tsvm set --mem 2G --cpus 4 web', 'tsvm set --disk 40G web'];
const HELP = `
Memory and CPUs are those of the next start. The disk can be made larger while the VM runs: the guest is told.`;

/** `tsvm set`: changes a VM. */
export function addSet(program: Command, done: Done): void {
  addVerb(program, 'set', "change a VM's memory, CPUs or disk", EXAMPLES)
    .argument('<name>', NAME_HELP)
    .option('--mem <size>', 'RAM, such as 768M or 1.5G', argument(parseSize))
    .option('--cpus <n>', `virtual CPUs, 1 to ${MAX_VCPUS}`, wholeNumber(1, MAX_VCPUS))
    .option('--disk <size>', 'size of its first disk, not smaller than it is', diskSize)
    .addHelpText('after', HELP)
    .action(async (name: string, { mem, cpus, disk }: SetFlags) => {
      if (mem === undefined && cpus === undefined && disk === undefined)
        throw new UsageError('there is nothing to set', "see 'tsvm set --help'");
      const store = openStore();
      const { settings, running } = {
        settings: store.settings(name),
        running: store.status(name).state === 'running',
      };
      if (disk !== undefined) await growDisk(store, name, disk, running);
      if (mem !== undefined || cpus !== undefined) {
        store.writeSettings(name, {
          ...settings,
          vm: {
            ...settings.vm,
            ...(mem !== undefined && { memory: mem }),
            ...(cpus !== undefined && { cpus }),
          },
        });
        if (running)
          process.stderr.write(
            `tsvm: '${name}' has the new memory and CPUs after \`tsvm restart ${name}\`\n`,
          );
      }
      done(EXIT.ok);
    });
}

async function growDisk(
  store: ReturnType<typeof openStore>,
  name: string,
  size: number,
  running: boolean,
): Promise<void> {
  const [first] = store.settings(name).disks;
  if (first === undefined) throw new UsageError(`the VM '${name}' has no disk`);
  const source = {
    path: join(store.folderOf(name), first.file),
    format: first.format,
    ...(first.trustBacking && { backing: { trusted: true } }),
  };
  const { diskInfo, resizeDisk } = await import('../../storage/tools.ts');
  const [info] = await diskInfo(source, { chain: false, share: true });
  if (size < info.virtualSize)
    throw new UsageError(
      `a disk is not made smaller than the ${info.virtualSize} bytes it has: the guest would lose data`,
    );
  if (running) {
    const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
    using connection = new VmConnection(store, name);
    await connection.control.resizeDisk(0, size);
  } else await resizeDisk(source, size);
}
