import { execa } from 'execa';
import { createWriteStream, existsSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Duplex } from 'node:stream';
import { cacheRoot } from '../../images/debian/cache.ts';
import { buildDebian } from '../../images/debian/system.ts';
import {
  CommandChannel,
  execOver,
  LabError,
  type Command,
  type ExecOptions,
  type ExecResult,
} from './commands.ts';
import { HOST_TAG, prepareLevel1, SHARED_TAG, type Level1 } from './level1.ts';
import { FRAME } from './protocol.ts';
import { findQemu } from './qemu.ts';
import { scratchImage } from './scratch.ts';

export type LabOptions = {
  /** memory of level 1 in MiB; default {@link DEFAULT_MEM_MIB}. The host's is taken only as level 1 touches it. */
  readonly mem?: number;
  /** default 1, which is faster for most work: under TCG each further CPU costs */
  readonly cpus?: number;
  /** directory for {@link Lab.shared}, which stays; default: a new one that goes with the lab */
  readonly shared?: string;
  /** put Debian's disk image on the scratch disk, as `debian.raw`; builds it where it is not in the cache */
  readonly debian?: boolean;
  /** limit for the time until level 1 takes commands, default 120 s; fetching packages does not count */
  readonly bootTimeoutMs?: number;
};

export const DEFAULT_MEM_MIB = 6144;
const BOOT_TIMEOUT_MS = 120_000;
/**
 * Under TCG (QEMU 7.2) a CPU that leaves or enters a nested guest changes its pending interrupts without a lock, and
 * one that comes at that moment is lost: once in some hundred thousand exits. Where that is the timer's, level 1 has
 * no more of them, and its guest the CPU for ever, until a device interrupts. So one does.
 */
const NUDGE_MS = 1000;
/** Of the console, for messages. */
const TAIL_BYTES = 64 * 1024;
const TAIL_LINES = 40;

/** Level 1: a machine under TCG with a true kvm_amd, the host's tree and as many commands at once as one likes. */
export class Lab implements AsyncDisposable {
  /** a directory that both the host and level 1 can write, by this path in both */
  readonly shared: string;
  readonly #dir: string;
  readonly #qemu: ReturnType<typeof spawnQemu>;
  readonly #channel: CommandChannel;
  readonly #ended: Promise<void>;
  readonly #onExit: () => void;
  #console = Buffer.alloc(0);
  #stopping = false;

  /**
   * Boots level 1. Fetches its parts where they are not in the cache yet.
   * @throws LabError with the end of the console where it does not come up
   */
  static async start(options: LabOptions = {}): Promise<Lab> {
    const root = join(cacheRoot(), 'lab');
    await mkdir(root, { recursive: true });
    await removeLeftovers(root);
    const dir = await mkdtemp(join(root, `run-${process.pid}-`));
    const shared = options.shared === undefined ? join(dir, 'shared') : resolve(options.shared);
    let lab: Lab | undefined;
    try {
      await mkdir(shared, { recursive: true });
      const [qemu, level1, debian] = await Promise.all([
        findQemu(),
        prepareLevel1(dir, shared),
        options.debian === true ? buildDebian() : undefined,
      ]);
      const scratch = await scratchImage(dir, debian);
      const args = [...qemu.args, ...machineArguments(level1, shared, scratch, options)];
      lab = new Lab(dir, shared, [qemu.command, ...args], qemu.env);
      await lab.#untilReady(options.bootTimeoutMs ?? BOOT_TIMEOUT_MS);
      return lab;
    } catch (error) {
      await lab?.stop();
      rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }

  private constructor(
    dir: string,
    shared: string,
    command: readonly string[],
    env: Readonly<Record<string, string>>,
  ) {
    this.#dir = dir;
    this.shared = shared;
    this.#qemu = spawnQemu(command, env);
    const log = createWriteStream(join(dir, 'console.log'));
    for (const stream of [this.#qemu.stdout, this.#qemu.stderr]) {
      stream.on('data', (data: Buffer) => {
        log.write(data);
        this.#console = Buffer.concat([this.#console, data]).subarray(-TAIL_BYTES);
      });
    }
    this.#channel = new CommandChannel(this.#qemu.stdio[3] as unknown as Duplex, () => undefined);
    const nudges = setInterval(() => this.#channel.send(FRAME.nudge, 0), NUDGE_MS).unref();
    this.#onExit = () => {
      this.#qemu.kill('SIGKILL');
      rmSync(dir, { recursive: true, force: true });
    };
    process.once('exit', this.#onExit);
    this.#ended = this.#qemu.then(({ exitCode, signal, shortMessage }) => {
      clearInterval(nudges);
      process.removeListener('exit', this.#onExit);
      log.end();
      const how = signal !== undefined ? `by ${signal}` : `with status ${String(exitCode ?? shortMessage)}`;
      const what = this.#stopping ? 'level 1 was stopped' : `level 1 ended ${how}${this.consoleTail()}`;
      this.#channel.lose(new LabError(what));
    });
  }

  /** The process id of level 1's QEMU. */
  get pid(): number {
    return this.#qemu.pid ?? 0;
  }

  /** Carries commands; for those who pass on commands of other processes. */
  get channel(): CommandChannel {
    return this.#channel;
  }

  /** Resolves when level 1 has ended, for whatever reason. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /**
   * Runs a command in level 1, with this process's environment and working directory.
   * @throws LabError where level 1 is lost or hangs; Error where the command cannot be started
   */
  exec(command: Command, options: ExecOptions = {}): Promise<ExecResult> {
    return execOver(this.#channel, command, options, () => Promise.resolve(this.consoleTail()));
  }

  /** The end of level 1's console, with a heading, as it is put after a message. Empty where nothing was said. */
  consoleTail(): string {
    const lines = this.#console.toString().replaceAll('\r', '').trimEnd().split('\n').slice(-TAIL_LINES);
    return lines.join('') === '' ? '' : `\n--- end of level 1's console ---\n${lines.join('\n')}\n---`;
  }

  /** Ends level 1 at once. What commands wrote is lost, but for what is in a {@link LabOptions.shared}. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#qemu.kill('SIGKILL');
    await this.#ended;
    rmSync(this.#dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #untilReady(limitMs: number): Promise<void> {
    const timer = setTimeout(
      () =>
        this.#channel.lose(new LabError(`level 1 was not ready within ${limitMs} ms${this.consoleTail()}`)),
      limitMs,
    );
    try {
      await this.#channel.ready;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Removes the directories of labs whose process was killed. */
async function removeLeftovers(root: string): Promise<void> {
  for (const entry of await readdir(root)) {
    const pid = /^run-(\d+)-/.exec(entry)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      await rm(join(root, entry), { recursive: true, force: true });
  }
}

/** With a socket for the control channel as its file descriptor 3. The kernel ends it with us, however we end. */
function spawnQemu(command: readonly string[], env: Readonly<Record<string, string>>) {
  return execa('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    buffer: false,
    reject: false,
    env,
  });
}

/**
 * An AMD CPU with SVM, without CMPXCHG16B: in a nested guest the emulator (QEMU 7.2 and 10.0) gets RFLAGS wrong behind
 * it, and a Linux 6.12 with 4 vCPUs dies of that in two boots of three, under tsvm as under QEMU.
 */
const CPU = 'EPYC-Rome,+svm,+npt,-cx16';

/*
 * A fault of the emulator that there is no way around: a VMRUN that injects an interrupt leaves its vector behind as the
 * CPU's next exception (helper_vmrun, seen with QEMU 7.2), and where another thread kicks the CPU before the nested
 * guest's next exit, the guest gets that interrupt once more, whether it has interrupts on or not. One that comes into
 * its own handler may wait for a lock that this holds, for ever: once in some hundred minutes of a busy Debian on a busy
 * machine. It is seen by a vCPU with RFLAGS.IF off and no interrupt in service that spins, and by a frame on its stack
 * with IF off that an interrupt has put there. QEMU's `stop` and `cont`, 30 times a second, hang every nested guest
 * within seconds, under tsvm as under QEMU.
 */

function machineArguments(level1: Level1, shared: string, scratch: string, options: LabOptions): string[] {
  // A comma ends an option's value unless it is doubled.
  const quoted = (path: string) => path.replaceAll(',', ',,');
  return [
    ...['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', CPU],
    ...['-smp', String(options.cpus ?? 1), '-m', String(options.mem ?? DEFAULT_MEM_MIB)],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
    ...['-kernel', level1.kernel, '-initrd', level1.initrd, '-append', level1.commandLine],
    ...['-fsdev', `local,id=h,path=/,security_model=none,readonly=on,multidevs=remap`],
    ...['-device', `virtio-9p-pci,fsdev=h,mount_tag=${HOST_TAG}`],
    ...['-fsdev', `local,id=s,path=${quoted(shared)},security_model=none`],
    ...['-device', `virtio-9p-pci,fsdev=s,mount_tag=${SHARED_TAG}`],
    ...['-drive', `file=${quoted(scratch)},if=none,id=d,format=raw,snapshot=on,cache=unsafe,discard=unmap`],
    ...['-device', 'virtio-blk-pci,drive=d,serial=scratch'],
    // A socket that we made and passed on: nobody else can get at it.
    ...['-chardev', 'socket,id=control,fd=3', '-device', 'virtio-serial-pci'],
    ...['-device', 'virtserialport,chardev=control,name=tsvm.lab'],
  ];
}
