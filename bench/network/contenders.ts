import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PVH_START_INFO } from '../../src/boot/layout.ts';
import type { GuestProgram } from '../../test/guests/build.ts';
import type { Qemu } from '../../test/lab/qemu.ts';
import { bundleScript } from '../../test/support/bundle-script.ts';
import { pvhBootImage } from '../devices/boot-image.ts';
import type { Link } from './peer.ts';

/** A VMM with a network card that the peer is at the other end of. */
export type Contender = {
  readonly name: string;
  readonly env: Readonly<Record<string, string>>;
  command(words: readonly string[]): Promise<readonly [string, ...string[]]>;
};

export type Setting = {
  readonly program: GuestProgram;
  readonly link: Link;
  readonly qemu: Qemu;
  /** a folder for files of a run */
  readonly scratch: string;
};

export const OURS = 'tsvm pci';
export const PEER = 'qemu q35';

const MIB = 1024 * 1024;
const MEMORY_MIB = 256;

/** Boots as `tsvm run` does, with nothing loaded that the command line would need. */
const RUN_TSVM = `
import { startVm } from './src/vmm/vm.ts';
const { kernel, cmdline, memory, network } = JSON.parse(process.argv[2]);
const networks = [network];
const vm = await startVm({ kernel, cmdline, memory, networks, noReboot: true, log: (line) => console.error(line) });
vm.serial.onData((bytes) => process.stdout.write(bytes));
const { reason, message } = await vm.exited;
if (reason !== 'poweroff') {
  console.error(message);
  process.exitCode = 1;
}
`;

export async function contenders({ program, link, qemu, scratch }: Setting): Promise<Contender[]> {
  const script = await bundleScript(RUN_TSVM);
  const network =
    link.kind === 'stream' ? { kind: 'stream', path: link.socket } : { kind: 'tap', tap: link.name };
  const netdev =
    link.kind === 'stream'
      ? `stream,id=net,server=off,addr.type=unix,addr.path=${link.socket}`
      : `tap,id=net,ifname=${link.name},script=no,downscript=no,vhost=off`;
  const ours: Contender = {
    name: OURS,
    env: {},
    command: (words) => {
      const options = { kernel: program.elf, cmdline: words.join(' '), memory: MEMORY_MIB * MIB, network };
      return Promise.resolve([process.execPath, script, JSON.stringify(options)]);
    },
  };
  const theirs: Contender = {
    name: PEER,
    env: qemu.env,
    command: async (words) => {
      const image = join(scratch, 'q35.boot');
      await writeFile(image, pvhBootImage(words.join(' '), MEMORY_MIB * MIB));
      const args = [
        ['-M', 'q35', '-accel', 'kvm', '-cpu', 'host', '-m', String(MEMORY_MIB)],
        ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
        ['-bios', program.firmware],
        ['-device', `loader,file=${program.elf}`],
        ['-device', `loader,file=${image},addr=${PVH_START_INFO},force-raw=on`],
        ['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
        ['-netdev', netdev],
        ['-device', 'virtio-net-pci,netdev=net,disable-legacy=on,romfile='],
      ];
      return [qemu.command, ...qemu.args, ...args.flat()];
    },
  };
  return [ours, theirs];
}
