/** `tsvm run IMAGE -- COMMAND`: a VM for one command, of which nothing is left. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { managerPaths } from '../../manager/paths.ts';
import type { VmConnection } from '../../manager/vms/lifecycle.ts';
import type { VmStore } from '../../manager/vms/store.ts';
import type { RunVm } from '../../manager/warm/run.ts';
import { errorMessage } from '../errors.ts';
import { EXIT } from '../exit-codes.ts';
import { ProgressLine } from '../progress-line.ts';
import { SIGNALS } from '../signals.ts';
import { onBase, type VmFlags } from './base.ts';
import { type CommandFlags, runCommand, SHELL } from './exec.ts';
import { bootPhases, formatPhases, phaseTimes, type Phases } from './phases.ts';
import { openStore } from './vms.ts';

export type RunImageFlags = VmFlags &
  Omit<CommandFlags, 'timeout'> & {
    readonly name?: string;
    /** it stays, switched off */
    readonly keep?: true;
    /** how long the guest may take to come up, in seconds */
    readonly wait: number;
    /** for all of it, in seconds */
    readonly timeout?: number;
    readonly timings?: true;
    /** it boots, whatever others have done before it */
    readonly cold?: true;
    /** the timings as JSON */
    readonly json?: true;
  };

/** A guest that is kept may take so long to power off, in milliseconds. */
const POWER_OFF_LIMIT = 60_000;

/** Why it ends before its command does. */
class Left extends Error {
  readonly exitCode: number;

  constructor(exitCode: number, message = '') {
    super(message);
    this.exitCode = exitCode;
  }
}

/**
 * Makes a VM, boots it, runs a command in it with this process's streams, and deletes it.
 * @param words none: a shell
 * @returns the exit status: that of the command, or 124 after `timeout`, or that of the signal
 */
export async function runImage(
  image: string,
  words: readonly string[],
  flags: RunImageFlags,
): Promise<number> {
  const leave = new AbortController();
  const { signal } = leave;
  const handlers = Object.entries(SIGNALS).map(([name, code]) => {
    const handler = (): void => {
      // The VM ends with this process: a second signal need not wait for anything.
      if (signal.aborted) process.exit(code);
      leave.abort(new Left(code));
    };
    process.on(name, handler);
    return () => process.off(name, handler);
  });
  // Nobody reads any more: `main` says so.
  const unread = (): void => leave.abort(new Left(EXIT.ok));
  process.stdout.once('error', unread);
  const { timeout } = flags;
  const timer =
    timeout === undefined
      ? undefined
      : setTimeout(
          () => leave.abort(new Left(EXIT.timeout, `the time of --timeout, ${timeout} s, is over`)),
          timeout * 1000,
        );
  try {
    return await inVm(image, words, flags, signal);
  } catch (error) {
    // What ends because of it says other things.
    const reason: unknown = signal.aborted ? signal.reason : error;
    if (!(reason instanceof Left)) throw reason;
    if (reason.message !== '') process.stderr.write(`tsvm: ${reason.message}\n`);
    return reason.exitCode;
  } finally {
    clearTimeout(timer);
    process.stdout.off('error', unread);
    for (const off of handlers) off();
  }
}

async function inVm(
  image: string,
  words: readonly string[],
  flags: RunImageFlags,
  signal: AbortSignal,
): Promise<number> {
  const { createRunVm, isSpoilt, keepBooted } = await import('../../manager/warm/run.ts');
  const paths = managerPaths();
  const store = openStore();
  const name = flags.name ?? `run-${randomBytes(4).toString('hex')}`;
  const begin = performance.timeOrigin;
  const choice = { temporary: flags.keep !== true, cold: flags.cold === true };
  const made = await onBase(image, name, flags, (vm) => createRunVm(paths, store, vm, choice));
  const created = now();
  let phases: Phases | undefined;
  let spoilt = false;
  let vm: Guest | undefined;
  try {
    vm = await started(store, name, made, words, flags, signal);
    const why = await saying(`keeping '${name}' as it has booted, for later runs`, () =>
      keepBooted(paths, store, name, made, signal),
    );
    if (why !== undefined) process.stderr.write(`tsvm: later runs will boot, too: ${why}\n`);
    signal.throwIfAborted();
    const ready = now();
    using connection = vm.connect();
    const streams: CommandFlags =
      words.length === 0 ? { interactive: true, ...(hasTerminal() && { tty: true }) } : flags;
    const command = words.length === 0 ? SHELL : words;
    const status = await runCommand(vm.connect, command, streamsOf(streams), signal);
    if (flags.timings) phases = await bootPhases(connection.control, { begin, created, ready, ended: now() });
    return status;
  } catch (error) {
    spoilt = await isSpoilt(paths, made, error);
    if (!spoilt) throw error;
    // The next one has its name.
    if (flags.keep) await store.delete(name);
  } finally {
    await vm?.end(signal.aborted);
    made.owner?.[Symbol.dispose]();
    await read(process.stdout, signal);
    if (phases !== undefined) {
      const times = phaseTimes(phases, now());
      process.stderr.write(flags.json ? `${JSON.stringify(times)}\n` : formatPhases(times));
    }
  }
  return await inVm(image, words, { ...flags, cold: true }, signal);
}

async function saying<T>(what: string, work: () => Promise<T>): Promise<T> {
  using line = new ProgressLine();
  line.say(what);
  return await work();
}

const streamsOf = ({ interactive, tty }: CommandFlags): CommandFlags => ({
  ...(interactive && { interactive }),
  ...(tty && { tty }),
});

const hasTerminal = (): boolean => process.stdin.isTTY && process.stdout.isTTY;

/** A VM that runs, in this process or in its own. */
type Guest = {
  readonly connect: () => VmConnection;
  /** @throws WaitError, the signal's reason */
  readonly waitForAgent: (timeout: number, signal: AbortSignal) => Promise<void>;
  /** It is gone then; or, where it is to be kept, off. @param force it is not asked to power off */
  readonly end: (force: boolean) => Promise<void>;
};

/** Starts a VM, and waits for its guest. Where that fails, it is gone or off. */
async function started(
  store: VmStore,
  name: string,
  made: RunVm,
  words: readonly string[],
  flags: RunImageFlags,
  signal: AbortSignal,
): Promise<Guest> {
  const { WaitError } = await import('../../manager/vms/wait.ts');
  const host = (await isHosted(made, words, flags)) ? hostedGuest : tiedGuest;
  using line = new ProgressLine();
  line.say(`starting '${name}'`);
  // Nothing is deleted under a VM that is about to come up.
  const vm = await host(store, name, flags);
  try {
    signal.throwIfAborted();
    line.say(`waiting for the guest agent of '${name}'`);
    await vm.waitForAgent(flags.wait * 1000, signal);
    return vm;
  } catch (error) {
    await vm.end(signal.aborted);
    if (!(error instanceof WaitError)) throw error;
    const [first = '', ...rest] = error.message.split('\n');
    const tail = rest.map((text) => `\n${errorMessage(new Error(text))}`).join('');
    throw new Left(
      error.code === 'EWAITTIMEOUT' ? EXIT.timeout : EXIT.crashed,
      `${errorMessage(new Error(first))}${tail}`,
    );
  }
}

/**
 * Whether the VM is to be in this process: not where something is to be done with it, or with a terminal, that its jail
 * forbids, or it has limits that are for itself alone.
 */
async function isHosted(made: RunVm, words: readonly string[], flags: RunImageFlags): Promise<boolean> {
  const { canHostVm } = await import('../../manager/vms/hosted.ts');
  const isToBeKept = flags.keep === true || (made.key !== undefined && !made.isWarm);
  const onTerminal = flags.tty === true || (words.length === 0 && hasTerminal());
  const isLimited = flags.cpuLimit !== undefined || flags.memoryLimit !== undefined;
  return !isToBeKept && !onTerminal && !isLimited && canHostVm();
}

async function hostedGuest(store: VmStore, name: string): Promise<Guest> {
  const { HostedVm } = await import('../../manager/vms/hosted.ts');
  const vm = await HostedVm.start(store, name);
  // The guest does not stand still while somebody reads slowly what its command says. Others have the same pipe.
  const { _handle: pipe } = process.stdout as { readonly _handle?: { setBlocking?(on: boolean): void } };
  pipe?.setBlocking?.(false);
  process.once('exit', () => pipe?.setBlocking?.(true));
  return {
    connect: vm.connect,
    waitForAgent: (timeout, signal) => vm.waitForAgent(timeout, signal),
    end: () => vm.remove(),
  };
}

/** A VM in a process of its own, which ends with this one. */
async function tiedGuest(store: VmStore, name: string, { keep }: RunImageFlags): Promise<Guest> {
  const { killVm, startVmProcess, stopVm, VmConnection } = await import('../../manager/vms/lifecycle.ts');
  const { waitFor } = await import('../../manager/vms/wait.ts');
  const end = async (force: boolean): Promise<void> => {
    if (store.status(name).state === 'running') {
      if (keep) await stopVm(store, name, { timeout: POWER_OFF_LIMIT, force });
      else await killVm(store, name);
    }
    if (!keep) await store.delete(name);
  };
  try {
    await startVmProcess(store, name, { tied: true });
  } catch (error) {
    await end(true);
    throw error;
  }
  return {
    connect: () => new VmConnection(store, name),
    waitForAgent: (timeout, signal) => waitFor(store, name, 'agent', { timeout, signal }),
    end,
  };
}

/** Resolves when what was written is with its reader, or there is none. */
async function read(stream: NodeJS.WriteStream, signal: AbortSignal): Promise<void> {
  if (signal.aborted || stream.destroyed || stream.writableLength === 0) return;
  const aborted = once(signal, 'abort');
  const written = new Promise((resolve) => stream.write('', resolve));
  await Promise.race([aborted, written]);
}

/** In milliseconds since 1970, as VMs' processes count too. */
const now = (): number => performance.timeOrigin + performance.now();
