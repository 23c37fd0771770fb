import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PVH_START_INFO } from '../../src/boot/layout.ts';
import type { GuestProgram } from '../../test/guests/build.ts';
import type { Qemu } from '../../test/lab/qemu.ts';
import { bundleScript } from '../../test/support/bundle-script.ts';
import { pvhBootImage } from './boot-image.ts';

/** A VMM with a machine of its, and how to run the guest program there. */
export type Contender = {
  readonly name: string;
  /** the contender it is measured against: the same transport */
  readonly peer?: string;
  readonly env: Readonly<Record<string, string>>;
  /** @param words the guest's command line, but for where the disk is */
  command(words: readonly string[]): Promise<readonly [string, ...string[]]>;
};

export type Setting = {
  readonly program: GuestProgram;
  readonly disk: string;
  readonly format: 'raw' | 'qcow2';
  readonly qemu: Qemu;
  /** a folder for files of a run */
  readonly scratch: string;
};

const MIB = 1024 * 1024;
const MEMORY_MIB = 256;
/** QEMU's microvm: as many transports, 512 bytes each, the disk is in the last of them */
const MICROVM_MMIO = { base: 0xfeb0_0000, size: 512, count: 24, irq: 5 };

/** Boots as `tsvm run` does, with nothing loaded that the command line would need. */
const RUN_TSVM = `
import { startVm } from './src/vmm/vm.ts';
const { kernel, cmdline, memory, disk, format, transport } = JSON.parse(process.argv[2]);
const disks = [{ path: disk, format, cache: 'writeback' }];
const vm = await startVm({ kernel, cmdline, memory, disks, transport, noReboot: true });
vm.serial.onData((bytes) => process.stdout.write(bytes));
const { reason, message } = await vm.exited;
if (reason !== 'poweroff') {
  console.error(message);
  process.exitCode = 1;
}
`;

async function tsvm({ program, disk, format }: Setting): Promise<Contender[]> {
  const script = await bundleScript(RUN_TSVM);
  const over = (name: string, transport: string, peer: string): Contender => ({
    name,
    peer,
    env: {},
    command: (words) => {
      const options = {
        kernel: program.elf,
        cmdline: words.join(' '),
        memory: MEMORY_MIB * MIB,
        disk,
        format,
        transport,
      };
      return Promise.resolve([process.execPath, script, JSON.stringify(options)]);
    },
  });
  return [over('tsvm mmio', 'mmio-cmdline', 'qemu microvm'), over('tsvm pci', 'pci', 'qemu q35')];
}

/**
 * QEMU's own firmware does not run on every KVM, so its generic loader puts the program into memory, and 64 KiB of
 * ours take the firmware's place.
 */
function qemu({ program, disk, format, qemu, scratch }: Setting): Contender[] {
  const on = (name: string, machine: string, device: string, where: readonly string[]): Contender => ({
    name,
    env: qemu.env,
    command: async (words) => {
      const image = join(scratch, `${machine}.boot`);
      await writeFile(image, pvhBootImage([...words, ...where].join(' '), MEMORY_MIB * MIB));
      const args = [
        ['-M', machine === 'microvm' ? 'microvm,isa-serial=on' : machine],
        ['-accel', 'kvm', '-cpu', 'host', '-m', String(MEMORY_MIB)],
        ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
        ['-bios', program.firmware],
        ['-device', `loader,file=${program.elf}`],
        ['-device', `loader,file=${image},addr=${PVH_START_INFO},force-raw=on`],
        ['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
        ['-object', 'iothread,id=io'],
        ['-drive', `if=none,id=disk,file=${disk},format=${format},cache=writeback,aio=io_uring`],
        ['-global', 'virtio-mmio.force-legacy=false'],
        ['-device', `${device},drive=disk,iothread=io`],
      ];
      return [qemu.command, ...qemu.args, ...args.flat()];
    },
  });
  const { base, size, count, irq } = MICROVM_MMIO;
  const transports = Array.from(
    { length: count },
    (_, i) => `virtio_mmio.device=${size}@0x${(base + i * size).toString(16)}:${irq}`,
  );
  return [
    on('qemu microvm', 'microvm', 'virtio-blk-device', transports),
    on('qemu q35', 'q35', 'virtio-blk-pci,disable-legacy=on', []),
  ];
}

export async function contenders(setting: Setting): Promise<Contender[]> {
  return [...(await tsvm(setting)), ...qemu(setting)];
}
