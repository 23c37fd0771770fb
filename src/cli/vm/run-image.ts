/** `tsvm run IMAGE -- COMMAND`: a VM for one command, of which nothing is left. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { ControlClient } from '../../manager/control/client.ts';
import { managerPaths } from '../../manager/paths.ts';
import type { VmStore } from '../../manager/vms/store.ts';
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
  try {
    signal.throwIfAborted();
    return await booted(store, name, flags, signal, async (control) => {
      const why = await keepBooted(paths, store, name, made);
      if (why !== undefined) process.stderr.write(`tsvm: later runs will boot, too: ${why}\n`);
      signal.throwIfAborted();
      const ready = now();
      const tty = words.length === 0 && process.stdin.isTTY && process.stdout.isTTY;
      const streams: CommandFlags = words.length === 0 ? { interactive: true, ...(tty && { tty }) } : flags;
      const status = await runCommand(name, words.length === 0 ? SHELL : words, streamsOf(streams), signal);
      if (flags.timings) phases = await bootPhases(control, { begin, created, ready, ended: now() });
      return status;
    });
  } catch (error) {
    spoilt = await isSpoilt(paths, made, error);
    if (!spoilt) throw error;
  } finally {
    await endOf(store, name, spoilt ? {} : flags, signal);
    made.owner?.[Symbol.dispose]();
    if (phases !== undefined) {
      const times = phaseTimes(phases, now());
      process.stderr.write(flags.json ? `${JSON.stringify(times)}\n` : formatPhases(times));
    }
  }
  return await inVm(image, words, { ...flags, cold: true }, signal);
}

const streamsOf = ({ interactive, tty }: CommandFlags): CommandFlags => ({
  ...(interactive && { interactive }),
  ...(tty && { tty }),
});

/** Starts the VM, which ends with this process, and waits for its guest. */
async function booted<T>(
  store: VmStore,
  name: string,
  { wait }: RunImageFlags,
  signal: AbortSignal,
  use: (control: ControlClient) => Promise<T>,
): Promise<T> {
  const { startVmProcess, VmConnection } = await import('../../manager/vms/lifecycle.ts');
  const { waitFor, WaitError } = await import('../../manager/vms/wait.ts');
  {
    using line = new ProgressLine();
    line.say(`starting '${name}'`);
    const aborted = once(signal, 'abort').then(() => Promise.reject(signal.reason as Error));
    aborted.catch(() => undefined);
    const started = startVmProcess(store, name, { tied: true });
    await Promise.race([started, aborted]).catch(async (error: unknown) => {
      // Nothing is deleted under a process that is about to come up.
      await started.catch(() => undefined);
      throw error;
    });
    line.say(`waiting for the guest agent of '${name}'`);
    try {
      await waitFor(store, name, 'agent', { timeout: wait * 1000, signal });
    } catch (error) {
      if (!(error instanceof WaitError)) throw error;
      const [first = '', ...rest] = error.message.split('\n');
      const tail = rest.map((text) => `\n${errorMessage(new Error(text))}`).join('');
      throw new Left(
        error.code === 'EWAITTIMEOUT' ? EXIT.timeout : EXIT.crashed,
        `${errorMessage(new Error(first))}${tail}`,
      );
    }
  }
  using connection = new VmConnection(store, name);
  return await use(connection.control);
}

/** The VM is gone then; or, where it is to be kept, off. */
async function endOf(
  store: VmStore,
  name: string,
  { keep }: Pick<RunImageFlags, 'keep'>,
  signal: AbortSignal,
): Promise<void> {
  const { killVm, stopVm } = await import('../../manager/vms/lifecycle.ts');
  if (store.status(name).state === 'running') {
    if (keep) await stopVm(store, name, { timeout: POWER_OFF_LIMIT, force: signal.aborted });
    else await killVm(store, name);
  }
  if (!keep) await store.delete(name);
}

/** In milliseconds since 1970, as VMs' processes count too. */
const now = (): number => performance.timeOrigin + performance.now();
