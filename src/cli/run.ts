import { type Command, Option } from 'commander';

import { MAX_VCPUS } from '../boot/layout.ts';
import type {
  BalloonOptions,
  DiskOptions,
  PortOptions,
  RunningVm,
  VmOptions,
  ShareOptions,
  VsockOptions,
} from '../vmm/types.ts';
import {
  parseBalloon,
  parseDisk,
  parsePort,
  parseShare,
  parseVsock,
} from '../manager/options/device-options.ts';
import { UsageError } from './errors.ts';
import { escapeHelp } from './escape.ts';
import { parseForward, type PortForward } from '../net/forward.ts';
import { networksOf, parseNet, type NetChoice } from '../manager/options/net-options.ts';
import { parseSize } from '../manager/sizes.ts';
import { addVerb, argument, type Done, wholeNumber, collect } from './verb.ts';

/** What commander makes of the command line. */
type RunFlags = {
  readonly kernel?: string;
  readonly initrd?: readonly string[];
  readonly cmdline?: string;
  readonly mem?: number;
  readonly cpus?: number;
  readonly cpu?: string;
  readonly disk?: readonly DiskOptions[];
  readonly transport?: NonNullable<VmOptions['transport']>;
  readonly console?: NonNullable<VmOptions['console']>;
  readonly net?: readonly NetChoice[];
  readonly publish?: readonly PortForward[];
  readonly hostAccess?: true;
  readonly port?: readonly PortOptions[];
  readonly vsock?: VsockOptions;
  readonly share?: readonly ShareOptions[];
  readonly rng?: true;
  readonly balloon?: BalloonOptions | true;
  readonly timeout?: number;
  readonly timings?: true;
  readonly stats?: true;
  readonly reboot: boolean;
  readonly unpackKernel: boolean;
};

/** setTimeout counts milliseconds in 31 bits. */
const LONGEST_TIMEOUT = Math.floor((2 ** 31 - 1) / 1000);

const EXAMPLES = [
  'tsvm run --kernel vmlinuz --initrd initrd.img --cmdline "console=ttyS0 quiet"',
  'tsvm run --kernel vmlinuz --initrd base.img --initrd extra.img --mem 2G --cpus 2',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --cmdline "root=LABEL=root console=ttyS0"',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk overlay.qcow2,format=qcow2',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --share .:/mnt/src --share /data:/data:ro',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --net user -p 2222:22 -p 0:80',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --net vmnet=lan,name=web,uplink',
  'echo "uname -a; poweroff" | tsvm run --kernel vmlinuz --initrd shell.img --timeout 60',
];

const CONSOLE_HELP = `
The terminal is the guest's console, in raw mode: all keys go to the guest but Ctrl-].
${escapeHelp()}

A serial line does not carry the size of the terminal: after a resize Ctrl-] s tells a shell in the guest.
The virtio console (--console hvc0) does. A comma in a file name is written twice.

The format of a disk is raw unless given, and never guessed. Files below a qcow2 overlay are used where they are in
its own folder, or anywhere with trust-backing. No two VMs may write to one file, or one to what another one reads.
Where standard input is not a terminal, all of it goes to the guest, and its end does not end the VM.`;

function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value === 0 || value > LONGEST_TIMEOUT) {
    throw new RangeError(`not a number of seconds above 0, at most ${LONGEST_TIMEOUT}`);
  }
  return value;
}

function vmOptions(flags: RunFlags): VmOptions {
  // Commander would complain of this before it does of a misspelt --kernel.
  if (flags.kernel === undefined) throw new UsageError('--kernel is required', "see 'tsvm run --help'");
  return {
    kernel: flags.kernel,
    unpackKernel: flags.unpackKernel,
    noReboot: !flags.reboot,
    ...(flags.initrd !== undefined && { initrds: flags.initrd }),
    ...(flags.cmdline !== undefined && { cmdline: flags.cmdline }),
    ...(flags.mem !== undefined && { memory: flags.mem }),
    ...(flags.cpus !== undefined && { cpus: flags.cpus }),
    ...(flags.cpu !== undefined && { cpu: flags.cpu }),
    ...(flags.transport !== undefined && { transport: flags.transport }),
    ...(flags.disk !== undefined && { disks: flags.disk }),
    ...(flags.console !== undefined && { console: flags.console }),
    ...networksFlag(flags),
    ...(flags.port !== undefined && { ports: flags.port }),
    ...(flags.vsock !== undefined && { vsock: flags.vsock }),
    ...(flags.share !== undefined && { shares: flags.share }),
    ...(flags.rng !== undefined && { rng: flags.rng }),
    ...(flags.balloon !== undefined && { balloon: flags.balloon === true ? {} : flags.balloon }),
  };
}

function networksFlag({ net, publish, hostAccess }: RunFlags): Pick<VmOptions, 'networks'> {
  const settings = {
    ...(publish !== undefined && { forwards: publish }),
    ...(hostAccess !== undefined && { hostAccess }),
  };
  const networks = networksOf(net ?? [], settings);
  return net === undefined ? {} : { networks };
}

async function startVm(options: VmOptions): Promise<RunningVm> {
  const vm = await import('../vmm/vm.ts');
  if (options.shares === undefined) return vm.startVm(options);
  const { mountShares, withAgentPort } = await import('../manager/shares/mount.ts');
  const running = await vm.startVm(withAgentPort(options));
  mountShares(running, { log: options.log ?? (() => undefined) });
  return running;
}

/** `tsvm run`: boots a kernel in the foreground. */
export function addRun(program: Command, done: Done, start = startVm): void {
  addVerb(program, 'run', 'boot a kernel in the foreground', EXAMPLES)
    .option('--kernel <file>', 'bzImage or vmlinux to boot (required)')
    .option('--initrd <file>', 'initial RAM disk; may be given again, they are joined in order', collect)
    .option('--cmdline <text>', 'kernel command line (default: "console=ttyS0", or hvc0 with --console hvc0)')
    .option('--mem <size>', 'RAM, such as 768M or 1.5G (default: 512M)', argument(parseSize))
    .option('--cpus <n>', `virtual CPUs, 1 to ${MAX_VCPUS} (default: 1)`, wholeNumber(1, MAX_VCPUS))
    .option('--cpu <features>', 'CPU features to add and to hide, such as +avx2,-rdrand')
    .option(
      '--disk <file>',
      'disk image, with settings: FILE[,format=raw|qcow2][,ro][,cache=writeback|none|unsafe][,serial=TEXT]' +
        '[,block-size=512|4096][,queues=N][,bps=SIZE][,iops=N][,trust-backing]; may be given again',
      listOf(parseDisk),
    )
    .addOption(
      new Option('--transport <kind>', 'how the guest reaches its devices (default: pci)').choices([
        'pci',
        'mmio',
        'mmio-cmdline',
      ]),
    )
    .addOption(
      new Option('--console <kind>', 'what the terminal is connected to (default: serial)').choices([
        'serial',
        'hvc0',
      ]),
    )
    .option(
      '--net <kind>',
      'network card: none, user, vmnet=NETWORK[,name=HOST][,uplink=on|off], tap[=NAME][,bridge=NAME][,queues=N], ' +
        'or stream=SOCKET; each with ' +
        '[,mac=ADDRESS][,mtu=BYTES][,bps=SIZE][,pps=N][,link=on|off]; may be given again',
      listOf(parseNet),
    )
    .option(
      '-p, --publish <ports>',
      'port of this host that leads to one of the guest, over --net user: [ADDR:]HOST:GUEST[/udp], ranges too; ' +
        'HOST 0 takes a free one, ADDR is 127.0.0.1 unless given; may be given again',
      listOf(parseForward),
    )
    .option(
      '--host-access',
      "the guest reaches what listens on this host's loopback, at the address of its gateway",
    )
    .option(
      '--port <name=path>',
      "channel from the guest's /dev/virtio-ports/NAME to a unix socket; may be given again",
      listOf(parsePort),
    )
    .option(
      '--share <folders>',
      'folder of the host, mounted in the guest by its agent: HOST:GUEST[:ro][,cache=auto|none|always]' +
        '[,uid=N][,gid=N][,tag=NAME]; may be given again',
      listOf(parseShare),
    )
    .option(
      '--vsock <socket>',
      'AF_VSOCK for the guest, through unix sockets: PATH[,cid=N] (default cid: 3)',
      argument(parseVsock),
    )
    .option('--rng', 'virtio source of random numbers')
    .option(
      '--balloon [settings]',
      'memory balloon: [size=SIZE][,deflate-on-oom=on|off][,reporting=on|off][,stats=SECONDS]',
      argument(parseBalloon),
    )
    .option('--timeout <seconds>', 'end the VM after this time, with exit status 124', argument(seconds))
    .option('--no-reboot', 'end where the guest reboots, with exit status 4')
    .option('--unpack-kernel', 'unpack a packed kernel on the host, once, and keep it', true)
    .option('--no-unpack-kernel', 'let the guest unpack its kernel itself')
    .option('--timings', 'tell on standard error how long the start took')
    .option(
      '--stats',
      "tell on standard error at the end of the guest's accesses to devices, and of its exits",
    )
    .addHelpText('after', CONSOLE_HELP)
    .action(async (flags: RunFlags) => {
      const { runSession } = await import('./run-session.ts');
      const { timeout, timings = false, stats = false } = flags;
      const request = {
        start,
        options: vmOptions(flags),
        timings,
        stats,
        ...(timeout !== undefined && { timeout }),
      };
      done(
        await runSession(request, {
          stdin: process.stdin,
          stdout: process.stdout,
          stderr: process.stderr,
          process,
          stopProcess: () => process.kill(process.pid, 'SIGSTOP'),
        }),
      );
    });
}

/** Reads an argument that may be given more than once. */
function listOf<T>(parse: (text: string) => T): (text: string, previous: readonly T[] | undefined) => T[] {
  const one = argument(parse);
  return (text, previous = []) => [...previous, one(text)];
}
