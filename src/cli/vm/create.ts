import { type Command, Option } from 'commander';
import { MAX_VCPUS } from '../../boot/layout.ts';
import { parseSize } from '../../manager/sizes.ts';
import type { DiskFormat } from '../../storage/open.ts';
import { FORMATS, diskSize } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, argument, type Done, wholeNumber } from '../verb.ts';
import { openStore } from './vms.ts';

type CreateFlags = {
  readonly kernel: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  readonly format?: DiskFormat;
  readonly mem?: number;
  readonly cpus?: number;
  readonly disk?: number;
  readonly user?: string;
  readonly start?: true;
};

const EXAMPLES = [
  'tsvm create debian.qcow2 web --format qcow2 --kernel vmlinuz --initrd initrd.img --cmdline "root=LABEL=root"',
  'tsvm create debian.raw db --kernel vmlinuz --initrd initrd.img --mem 2G --cpus 2 --disk 20G --start',
];

/** `tsvm create`: makes a VM on a disk image. */
export function addCreateVm(program: Command, done: Done): void {
  addVerb(program, 'create', 'make a VM', EXAMPLES)
    .argument('<image>', 'disk image that the VM starts from; nobody may write to it from then on')
    .argument('<name>', 'name of the VM: lower-case letters, digits and dashes')
    .requiredOption('--kernel <file>', 'bzImage or vmlinux to boot')
    .option('--initrd <file>', 'initial RAM disk')
    .option('--cmdline <text>', 'kernel command line')
    .addOption(new Option('-f, --format <format>', 'format of the image (default: raw)').choices(FORMATS))
    .option('--mem <size>', 'RAM, such as 768M or 1.5G (default: 512M)', argument(parseSize))
    .option('--cpus <n>', `virtual CPUs, 1 to ${MAX_VCPUS} (default: 1)`, wholeNumber(1, MAX_VCPUS))
    .option('--disk <size>', 'size of its disk (default: that of the image)', diskSize)
    .option('--user <name>', 'who logs in')
    .option('--start', 'start it at once')
    .action(async (image: string, name: string, flags: CreateFlags) => {
      const { createVm } = await import('../../manager/vms/create.ts');
      const store = openStore();
      await createVm(store, {
        name,
        disk: { path: image, format: flags.format ?? 'raw' },
        kernel: flags.kernel,
        image,
        ...(flags.initrd !== undefined && { initrd: flags.initrd }),
        ...(flags.cmdline !== undefined && { cmdline: flags.cmdline }),
        ...(flags.mem !== undefined && { memory: flags.mem }),
        ...(flags.cpus !== undefined && { cpus: flags.cpus }),
        ...(flags.disk !== undefined && { diskSize: flags.disk }),
        ...(flags.user !== undefined && { user: flags.user }),
      });
      if (flags.start) {
        const { startVmProcess } = await import('../../manager/vms/lifecycle.ts');
        await startVmProcess(store, name);
      }
      done(EXIT.ok);
    });
}
