import { type Command, Option } from 'commander';
import { MAX_VCPUS } from '../../boot/layout.ts';
import { parseForward } from '../../net/forward.ts';
import { parseShare } from '../../manager/options/device-options.ts';
import { parseNet } from '../../manager/options/net-options.ts';
import { parseCpuTime, parseSize } from '../../manager/sizes.ts';
import { FORMATS, diskSize } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { addVerb, argument, type Done, wholeNumber, collect } from '../verb.ts';
import { nameOf, onBase, textsOf, type VmFlags } from './base.ts';
import { jailOption, openStore } from './vms.ts';

type CreateFlags = VmFlags & { readonly start?: true };

const EXAMPLES = [
  'tsvm create ubuntu --mem 1G',
  'tsvm create debian:12 web --cpus 2 --disk 20G --start',
  'tsvm create ./disk.qcow2 db --format qcow2',
  'tsvm create ./disk.raw test --kernel vmlinuz --initrd initrd.img --cmdline "root=/dev/vda1"',
];

const HELP = `
IMAGE is a name that \`tsvm image ls --all\` shows, and is downloaded where it is not here; or a disk image of yours, by a
path with a slash in it, whose format is raw unless --format tells. The VM's disk holds only what differs from it.

In a guest with cloud-init, as those of the catalogue are, the VM's name becomes its host's name, and its guest agent is
installed where it is not there, which needs a network.

Without --ssh-key such a guest gets a key of the data directory, for \`tsvm ssh\`.

Without --kernel the VM boots what the boot loader on its disk would boot, also after the guest has upgraded it.`;

/** `tsvm create`: makes a VM on an image. */
export function addCreateVm(program: Command, done: Done): void {
  addVerb(program, 'create', 'make a VM', EXAMPLES)
    .argument('<image>', 'what the VM starts from')
    .argument('[name]', 'of the VM: lower-case letters, digits and dashes (default: that of the image)')
    .option('--kernel <file>', 'bzImage or vmlinux to boot')
    .option('--initrd <file>', 'initial RAM disk')
    .option('--cmdline <text>', 'kernel command line')
    .addOption(
      new Option('-f, --format <format>', 'format of a disk image by path (default: raw)').choices(FORMATS),
    )
    .option('--mem <size>', 'RAM, such as 768M or 1.5G (default: 512M)', argument(parseSize))
    .option('--cpus <n>', `virtual CPUs, 1 to ${MAX_VCPUS} (default: 1)`, wholeNumber(1, MAX_VCPUS))
    .option('--disk <size>', 'size of its disk (default: that of the image)', diskSize)
    .option('--user <name>', 'who logs in')
    .option(
      '--net <kind>',
      'network card, as for `tsvm run`; may be given again (default: user)',
      textsOf(parseNet),
    )
    .option(
      '-p, --publish <ports>',
      'port of this host that leads to one of the guest, as for `tsvm run`',
      textsOf(parseForward),
    )
    .option(
      '--share <folders>',
      'folder of this host, mounted in the guest, as for `tsvm run`',
      textsOf(parseShare),
    )
    .option('--cloud-init <file>', "your file for the guest's cloud-init: #cloud-config, a script, …")
    .option('--ssh-key <file>', 'public key that may log in by ssh; may be given again', collect)
    .option(
      '--cpu-limit <n>',
      "CPUs' worth of time that its process may take, such as 1.5",
      argument(parseCpuTime),
    )
    .option(
      '--memory-limit <size>',
      'memory that its process may take: RAM and some 100M for tsvm itself',
      argument(parseSize),
    )
    .addOption(jailOption())
    .option('--start', 'start it at once')
    .addHelpText('after', HELP)
    .action(async (image: string, given: string | undefined, flags: CreateFlags) => {
      const { createVm } = await import('../../manager/vms/create.ts');
      const store = openStore();
      const name = given ?? nameOf(image);
      await onBase(image, name, flags, (vm) => createVm(store, vm));
      if (flags.start) {
        const { startVmProcess } = await import('../../manager/vms/lifecycle.ts');
        await startVmProcess(store, name);
      }
      done(EXIT.ok);
    });
}
