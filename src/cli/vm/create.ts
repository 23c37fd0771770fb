import { existsSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { type Command, Option } from 'commander';
import { MAX_VCPUS } from '../../boot/layout.ts';
import { parseForward } from '../../net/forward.ts';
import { parseShare } from '../../manager/options/device-options.ts';
import { parseNet } from '../../manager/options/net-options.ts';
import type { ManagerPaths } from '../../manager/paths.ts';
import { parseCpuTime, parseSize } from '../../manager/sizes.ts';
import type { NewVm } from '../../manager/vms/create.ts';
import type { DiskFormat } from '../../storage/open.ts';
import { FORMATS, diskSize } from '../disk/options.ts';
import { EXIT } from '../exit-codes.ts';
import { progressOf } from '../image/pull.ts';
import { whileShown } from '../progress.ts';
import { addVerb, argument, type Done, wholeNumber, collect } from '../verb.ts';
import { jailOption, openStore } from './vms.ts';

type CreateFlags = {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  readonly format?: DiskFormat;
  readonly mem?: number;
  readonly cpus?: number;
  readonly disk?: number;
  readonly user?: string;
  readonly net?: readonly string[];
  readonly publish?: readonly string[];
  readonly share?: readonly string[];
  readonly cloudInit?: string;
  readonly sshKey?: readonly string[];
  readonly jail?: 'on' | 'off';
  readonly cpuLimit?: number;
  readonly memoryLimit?: number;
  readonly start?: true;
};

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
      listOf(parseNet),
    )
    .option(
      '-p, --publish <ports>',
      'port of this host that leads to one of the guest, as for `tsvm run`',
      listOf(parseForward),
    )
    .option(
      '--share <folders>',
      'folder of this host, mounted in the guest, as for `tsvm run`',
      listOf(parseShare),
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
      const { managerPaths } = await import('../../manager/paths.ts');
      const store = openStore();
      const name = given ?? nameOf(image);
      const asked = seedOf(flags);
      const make = ({ seed, ...base }: Base): Promise<void> =>
        createVm(store, {
          name,
          ...base,
          ...((seed !== undefined || asked !== undefined) && { seed: { agent: 'none', ...seed, ...asked } }),
          ...(flags.kernel !== undefined && { kernel: flags.kernel }),
          ...(flags.initrd !== undefined && { initrd: flags.initrd }),
          ...(flags.cmdline !== undefined && { cmdline: flags.cmdline }),
          ...(flags.mem !== undefined && { memory: flags.mem }),
          ...(flags.cpus !== undefined && { cpus: flags.cpus }),
          ...(flags.disk !== undefined && { diskSize: flags.disk }),
          ...(flags.user !== undefined && { user: flags.user }),
          ...(flags.jail !== undefined && { jail: flags.jail }),
          ...(flags.cpuLimit !== undefined && { cpuLimit: flags.cpuLimit }),
          ...(flags.memoryLimit !== undefined && { memoryLimit: flags.memoryLimit }),
          ...(flags.net !== undefined && { networks: flags.net }),
          ...(flags.publish !== undefined && { publish: flags.publish }),
          ...(flags.share !== undefined && { shares: flags.share }),
        });
      if (isPath(image))
        await make({ disk: { path: image, format: flags.format ?? 'raw' }, image: basename(image) });
      else await onImage(managerPaths(), image, make);
      if (flags.start) {
        const { startVmProcess } = await import('../../manager/vms/lifecycle.ts');
        await startVmProcess(store, name);
      }
      done(EXIT.ok);
    });
}

/** Arguments that are kept as they are, once they make sense. */
function listOf(
  parse: (text: string) => unknown,
): (text: string, previous: readonly string[] | undefined) => string[] {
  const one = argument(parse);
  return (text, previous = []) => {
    one(text);
    return [...previous, text];
  };
}

/** What the user wants cloud-init to know. */
function seedOf({ cloudInit, sshKey, user }: CreateFlags): NewVm['seed'] {
  if (cloudInit === undefined && sshKey === undefined) return undefined;
  return {
    ...(user !== undefined && { user }),
    ...(cloudInit !== undefined && { userData: { content: readFileSync(cloudInit), name: cloudInit } }),
    ...(sshKey !== undefined && { sshKeys: sshKey.flatMap(keysIn) }),
  };
}

/** A file like `id_ed25519.pub`, or like authorized_keys. */
function keysIn(file: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

type Base = Omit<NewVm, 'name'>;

/** Makes a VM on an image of the store, which nobody removes meanwhile. */
async function onImage(
  paths: ManagerPaths,
  name: string,
  make: (base: Base) => Promise<void>,
): Promise<void> {
  const { ensureImage } = await import('../../manager/images/pull.ts');
  const { IMAGES_LOCK, getImage } = await import('../../manager/images/store.ts');
  const { withLock } = await import('../../manager/lock.ts');
  const { id } = await whileShown(`pulling ${name}`, (tell) =>
    ensureImage(paths, name, { onProgress: (progress) => tell(...progressOf(progress)) }),
  );
  await withLock(paths, IMAGES_LOCK, async () => {
    const { disk, format, kernel, initrd, cmdline, user, agent, name: own } = getImage(paths, id);
    await make({
      disk: { path: disk, format },
      image: own,
      ...(kernel !== undefined && { kernel }),
      ...(initrd !== undefined && { initrd }),
      ...(cmdline !== undefined && { cmdline }),
      ...(user !== undefined && { user }),
      // Images of the catalogue are made for clouds.
      seed: { agent: agent === 'included' ? 'start' : 'install' },
    });
  });
}

/** Names of images have no slash. */
function isPath(image: string): boolean {
  return image.includes('/') || (/\.(raw|img|qcow2)$/.test(image) && existsSync(image));
}

/** `ubuntu:24.04` and `disk/ubuntu.qcow2` make VMs of the name `ubuntu`. */
function nameOf(image: string): string {
  return basename(image)
    .replace(/[:.].*$/, '')
    .toLowerCase()
    .replaceAll(/[^a-z0-9-]/g, '-');
}
