import { type Command, Option } from 'commander';

import { MAX_VCPUS } from '../boot/layout.ts';
import type {
  BalloonOptions,
  DiskOptions,
  PortOptions,
  RunningVm,
  VmOptions,
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
import { parseForward } from '../net/forward.ts';
import { networksOf, parseNet } from '../manager/options/net-options.ts';
import { parseCpuTime, parseSize } from '../manager/sizes.ts';
import type { DiskFormat } from '../storage/open.ts';
import { diskSize, FORMATS } from './disk/options.ts';
import { addVerb, argument, type Done, wholeNumber, collect } from './verb.ts';
import { textsOf } from './vm/base.ts';
import { jailOption } from './vm/vms.ts';
import type { RunImageFlags } from './vm/run-image.ts';

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
  readonly net?: readonly string[];
  readonly publish?: readonly string[];
  readonly hostAccess?: true;
  readonly port?: readonly PortOptions[];
  readonly vsock?: VsockOptions;
  readonly share?: readonly string[];
  readonly rng?: true;
  readonly balloon?: BalloonOptions | true;
  readonly timeout?: number;
  readonly timings?: true;
  readonly json?: true;
  readonly stats?: true;
  readonly reboot: boolean;
  readonly unpackKernel: boolean;
  readonly interactive?: true;
  readonly tty?: true;
  readonly format?: DiskFormat;
  readonly user?: string;
  readonly cloudInit?: string;
  readonly sshKey?: readonly string[];
  readonly name?: string;
  readonly keep?: true;
  readonly wait?: number;
  readonly jail?: 'on' | 'off';
  readonly cpuLimit?: number;
  readonly memoryLimit?: number;
};

/** Options that only one of the two uses of `tsvm run` has. */
const OF_KERNELS = ['transport', 'console', 'cpu', 'hostAccess', 'port', 'vsock', 'rng', 'balloon', 'stats'];
const OF_IMAGES = [
  ...[
    'interactive',
    'tty',
    'format',
    'user',
    'cloudInit',
    'sshKey',
    'name',
    'keep',
    'cold',
    'wait',
    'jail',
    'json',
  ],
  ...['cpuLimit', 'memoryLimit'],
];
const AGENT_WAIT_S = 300;

/** setTimeout counts milliseconds in 31 bits. */
const LONGEST_TIMEOUT = Math.floor((2 ** 31 - 1) / 1000);

const EXAMPLES = [
  'tsvm run ubuntu -- uname -a',
  'tsvm run debian --mem 1G --share .:/mnt -- make -C /mnt test',
  'tsvm run -it ubuntu',
  'tsvm run --kernel vmlinuz --initrd initrd.img --cmdline "console=ttyS0 quiet"',
  'tsvm run --kernel vmlinuz --initrd base.img --initrd extra.img --mem 2G --cpus 2',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --cmdline "root=LABEL=root console=ttyS0"',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk overlay.qcow2,format=qcow2',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --share .:/mnt/src --share /data:/data:ro',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --net user -p 2222:22 -p 0:80',
  'tsvm run --kernel vmlinuz --initrd initrd.img --disk debian.raw --net vmnet=lan,name=web,uplink',
  'echo "uname -a; poweroff" | tsvm run --kernel vmlinuz --initrd shell.img --timeout 60',
];

const HELP = `
With an IMAGE it makes a VM as \`tsvm create\` does, boots it, runs COMMAND in it by its guest agent, as root, and deletes
it; without a COMMAND it opens a shell. The exit status is that of the command. However tsvm ends, the VM ends with it. An
IMAGE without a guest agent gets it by cloud-init, which takes a network and a while.

Without an IMAGE it boots a kernel in the foreground, and the terminal is the guest's console, in raw mode: all keys go to
the guest but Ctrl-].
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
  if (flags.kernel === undefined)
    throw new UsageError('an image, or --kernel, is required', "see 'tsvm run --help'");
  refuse(flags, OF_IMAGES, 'needs an IMAGE');
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
    ...(flags.share !== undefined && { shares: flags.share.map(parseShare) }),
    ...(flags.rng !== undefined && { rng: flags.rng }),
    ...(flags.balloon !== undefined && { balloon: flags.balloon === true ? {} : flags.balloon }),
  };
}

function networksFlag({ net, publish, hostAccess }: RunFlags): Pick<VmOptions, 'networks'> {
  const settings = {
    ...(publish !== undefined && { forwards: publish.map(parseForward) }),
    ...(hostAccess !== undefined && { hostAccess }),
  };
  const networks = networksOf((net ?? []).map(parseNet), settings);
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

function refuse(flags: RunFlags, keys: readonly string[], why: string): void {
  const key = keys.find((each) => each in flags);
  if (key === undefined) return;
  const option = `--${key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  throw new UsageError(`${option} ${why}`, "see 'tsvm run --help'");
}

/** The options of `tsvm run IMAGE`, some of which mean another thing there. */
function imageFlags(flags: RunFlags): RunImageFlags {
  refuse(flags, OF_KERNELS, 'does not go together with an IMAGE');
  if (!flags.reboot) throw new UsageError('--no-reboot does not go together with an IMAGE');
  if (flags.json && !flags.timings)
    throw new UsageError('--json is about --timings', "see 'tsvm run --help'");
  const { initrd = [], disk = [], wait = AGENT_WAIT_S, ...rest } = flags;
  if (initrd.length > 1) throw new UsageError('--initrd is wanted once at most, with an IMAGE');
  if (disk.length > 1) throw new UsageError('--disk is wanted once at most, with an IMAGE');
  const [{ path: size } = { path: undefined }] = disk;
  const [initrdFile] = initrd;
  return {
    ...rest,
    wait,
    ...(initrdFile !== undefined && { initrd: initrdFile }),
    ...(size !== undefined && { disk: sizeOfDisk(size) }),
  };
}

function sizeOfDisk(text: string): number {
  try {
    return diskSize(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new UsageError(`--disk, with an IMAGE, is the size of its disk: ${why}`);
  }
}

/** `tsvm run`: a throw-away VM for a command, or a kernel in the foreground. */
export function addRun(program: Command, done: Done, start = startVm): void {
  addVerb(program, 'run', 'run a command in a throw-away VM, or boot a kernel in the foreground', EXAMPLES)
    .argument('[image]', 'what the VM starts from, as for `tsvm create`')
    .argument('[command...]', 'command and its arguments, after --')
    .option('-i, --interactive', 'IMAGE: give the command standard input')
    .option('-t, --tty', 'IMAGE: give the command a terminal')
    .option('--name <name>', "IMAGE: the VM's name (default: one of its own)")
    .option('--keep', 'IMAGE: keep the VM, switched off')
    .option('--cold', 'IMAGE: boot, also where an earlier run has left a guest that had booted')
    .option(
      '--wait <seconds>',
      `IMAGE: how long the guest may take to come up (default: ${AGENT_WAIT_S})`,
      wholeNumber(1, 86_400),
    )
    .option(
      '--cpu-limit <n>',
      "IMAGE: CPUs' worth of time that the VM's process may take",
      argument(parseCpuTime),
    )
    .option(
      '--memory-limit <size>',
      "IMAGE: memory that the VM's process may take, with some 100M for tsvm itself",
      argument(parseSize),
    )
    .addOption(jailOption('IMAGE: '))
    .option('--cloud-init <file>', "IMAGE: your file for the guest's cloud-init: #cloud-config, a script, …")
    .option('--ssh-key <file>', 'IMAGE: public key that may log in by ssh; may be given again', collect)
    .option('--user <name>', 'IMAGE: who logs in')
    .addOption(
      new Option('-f, --format <format>', 'IMAGE: format of a disk image by path (default: raw)').choices(
        FORMATS,
      ),
    )
    .option('--kernel <file>', 'bzImage or vmlinux to boot (required without an IMAGE)')
    .option('--initrd <file>', 'initial RAM disk; may be given again, they are joined in order', collect)
    .option('--cmdline <text>', 'kernel command line (default: "console=ttyS0", or hvc0 with --console hvc0)')
    .option('--mem <size>', 'RAM, such as 768M or 1.5G (default: 512M)', argument(parseSize))
    .option('--cpus <n>', `virtual CPUs, 1 to ${MAX_VCPUS} (default: 1)`, wholeNumber(1, MAX_VCPUS))
    .option('--cpu <features>', 'CPU features to add and to hide, such as +avx2,-rdrand')
    .option(
      '--disk <file>',
      'disk image, with settings: FILE[,format=raw|qcow2][,ro][,cache=writeback|none|unsafe][,serial=TEXT]' +
        '[,block-size=512|4096][,queues=N][,bps=SIZE][,iops=N][,trust-backing]; may be given again. ' +
        'With an IMAGE: size of its disk',
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
      textsOf(parseNet),
    )
    .option(
      '-p, --publish <ports>',
      'port of this host that leads to one of the guest, over --net user: [ADDR:]HOST:GUEST[/udp], ranges too; ' +
        'HOST 0 takes a free one, ADDR is 127.0.0.1 unless given; may be given again',
      textsOf(parseForward),
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
      textsOf(parseShare),
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
    .option('--timings', 'tell on standard error what the time went into')
    .option('--json', 'IMAGE: tell the timings as a JSON object, in milliseconds')
    .option(
      '--stats',
      "tell on standard error at the end of the guest's accesses to devices, and of its exits",
    )
    .addHelpText('after', HELP)
    .action(async (image: string | undefined, command: readonly string[], flags: RunFlags) => {
      if (image !== undefined) {
        const { runImage } = await import('./vm/run-image.ts');
        done(await runImage(image, command, imageFlags(flags)));
        return;
      }
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
