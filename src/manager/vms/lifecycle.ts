import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { packageRoot } from '../../kvm/package-root.ts';
import { ControlClient } from '../control/client.ts';
import type { ErrorDetails } from '../control/errors.ts';
import { CONSOLE_SOCKET, CONTROL_SOCKET } from '../control/types.ts';
import { discardSuspended, recover } from '../snapshots/recover.ts';
import { removeGroup } from '../vmm/cgroup.ts';
import { readRecord, writeRecord } from '../vmm/record.ts';
import { TIE_FD } from '../vmm/tie.ts';
import { whileVmLocked } from './folder-lock.ts';
import { processOf, VmStoreError, type VmStore } from './store.ts';

/** A VM's process has to be up within this time, on however slow a host; the guest boots after that. In milliseconds. */
const START_LIMIT = 300_000;
/** what a VM's process says where its log is not open yet, or no more */
const PROCESS_OUTPUT = 'process.out';
/** How often it is looked whether a VM has ended, in milliseconds: less and less, as it takes CPU time from its end. */
const FIRST_POLL = 10;
const LAST_POLL = 200;
/** After SIGKILL the kernel has to free the guest's memory. */
const KILL_LIMIT = 60_000;

/** What the VMM says of a state that it cannot go on from. */
export const SNAPSHOT_CODES: ReadonlySet<string> = new Set(['EDAMAGED', 'EVERSION', 'EFOREIGN', 'EHOST']);

/** What a process says when it is up, or that it is not. One line of JSON on its descriptor 3. */
export const startReport = v.union([
  v.object({ ready: v.literal(true) }),
  v.object({
    error: v.object({
      message: v.string(),
      hint: v.exactOptional(v.string()),
      code: v.exactOptional(v.string()),
    }),
  }),
]);
export type StartReport = v.InferOutput<typeof startReport>;
export const REPORT_FD = 3;

/** A running VM's sockets, for as long as this is open. */
export class VmConnection implements Disposable {
  readonly control: ControlClient;
  readonly consolePath: string;
  readonly #fd: number;

  /**
   * @param known it is known to run
   * @throws VmStoreError (ESTOPPED)
   */
  constructor(store: VmStore, name: string, known = false) {
    const folder = store.folderOf(name);
    if (!known && store.status(name).state !== 'running')
      throw new VmStoreError(
        'ESTOPPED',
        `the VM '${name}' is not running`,
        `start it with \`tsvm start ${name}\``,
      );
    // By way of an open folder a socket's path is short, however long that of the folder is.
    this.#fd = openSync(folder, 'r');
    const at = (socket: string): string => `/proc/self/fd/${this.#fd}/run/${socket}`;
    this.control = new ControlClient(at(CONTROL_SOCKET));
    this.consolePath = at(CONSOLE_SOCKET);
  }

  close(): void {
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

export type StartOptions = {
  /** default: as its settings have it */
  readonly jail?: 'on' | 'off';
  /** what a suspended VM would go on from is discarded: it boots. Default false */
  readonly cold?: boolean;
  /** the VM ends when this process does, however that comes; default false */
  readonly tied?: boolean;
};

/**
 * Starts a VM's process, detached from this one. Resolves when the VM runs and its sockets are there.
 * @throws VmStoreError (ERUNNING), or what the process says is wrong
 */
export async function startVmProcess(
  store: VmStore,
  name: string,
  options: StartOptions = {},
): Promise<void> {
  const folder = store.folderOf(name);
  await whileVmLocked(folder, async () => {
    prepareStart(store, name, options);
    const output = openSync(join(folder, PROCESS_OUTPUT), 'w', 0o600);
    let child: ChildProcess;
    try {
      const { jail, tied = false } = options;
      const args = [...(jail === undefined ? [] : ['--jail', jail]), ...(tied ? ['--tied'] : []), folder];
      child = spawn(process.execPath, [join(packageRoot(), 'dist/tsvm.cjs'), 'vm-process', ...args], {
        detached: true,
        cwd: '/',
        // An io_uring of Node's own could do what its process may not (native/seccomp.cc).
        env: { ...process.env, UV_USE_IO_URING: '0' },
        stdio: ['ignore', output, output, 'pipe', ...(tied ? (['pipe'] as const) : [])],
      });
    } finally {
      closeSync(output);
    }
    await reported(child, folder, name);
    child.unref();
    // Held until this process ends; what has it open must not keep it alive.
    if (options.tied === true) (child.stdio[TIE_FD] as Socket).unref();
  });
}

/**
 * To be called with the VM's lock, by who is about to start it: puts right what an earlier process has left.
 * @throws VmStoreError (ERUNNING)
 */
export function prepareStart(store: VmStore, name: string, options: StartOptions): void {
  const folder = store.folderOf(name);
  if (store.status(name).state === 'running')
    throw new VmStoreError('ERUNNING', `the VM '${name}' is running already`);
  recover(folder);
  if (options.cold === true) discardSuspended(folder);
  // Who was killed by somebody else could not say so.
  const before = readRecord(folder);
  if (before !== undefined && before.end === undefined)
    store.events?.add(name, 'crashed', 'its process was killed');
  dropGroup(folder);
}

async function reported(child: ChildProcess, folder: string, name: string): Promise<void> {
  const pipe = child.stdio[REPORT_FD] as Readable;
  const log = join(folder, 'log', 'tsvm.log');
  const logged = statSync(log, { throwIfNoEntry: false })?.size ?? 0;
  const limited = new AbortController();
  const limit = setTimeout(() => {
    limited.abort();
    child.kill('SIGKILL');
  }, START_LIMIT);
  try {
    let text = '';
    const failed = new Promise<never>((_, reject) => child.once('error', reject));
    const read = (async () => {
      for await (const chunk of pipe) text += String(chunk);
    })();
    await Promise.race([read, failed]);
    // One that could not start leaves nothing behind that is still at work.
    if (!text.includes('"ready"') && child.exitCode === null && child.signalCode === null)
      await once(child, 'exit');
    const result = v.safeParse(v.pipe(v.string(), v.parseJson(), startReport), text);
    if (!result.success) {
      const ending = child.signalCode ?? `status ${child.exitCode}`;
      const what = limited.signal.aborted
        ? `the VM '${name}' did not run within ${START_LIMIT / 1000} s`
        : `the process of the VM '${name}' ended before the VM ran: ${ending}`;
      const said = lastLine(join(folder, PROCESS_OUTPUT), 0) ?? lastLine(log, logged);
      throw new VmStoreError(
        'ESTART',
        said === undefined ? what : `${what}; the last it said: ${said}`,
        `\`tsvm logs --process ${name}\` has what it said before`,
      );
    }
    if ('error' in result.output) throw startError(name, result.output.error);
  } finally {
    clearTimeout(limit);
    pipe.destroy();
  }
}

/** What is wrong with a VM, as its process has it. */
export function startError(name: string, { message, hint, code = 'ESTART' }: ErrorDetails): VmStoreError {
  const cold = `\`tsvm start --cold ${name}\` discards what it was and boots it`;
  const ways = [hint, SNAPSHOT_CODES.has(code) ? cold : undefined].filter((each) => each !== undefined);
  return new VmStoreError(
    code,
    `the VM '${name}' cannot be started: ${message}`,
    ways.length === 0 ? undefined : ways.join('; or '),
  );
}

/** The last line of a file that was written behind so many bytes. */
function lastLine(path: string, from: number): string | undefined {
  try {
    return /[^\n]+$/.exec(readFileSync(path).subarray(from).toString().trimEnd())?.[0];
  } catch {
    return undefined;
  }
}

export type StopOptions = {
  /** how long the guest may take to power off, in milliseconds, before it is forced; default 60 s */
  readonly timeout?: number;
  /** not asked at all */
  readonly force?: boolean;
};

/** Ends a VM. @returns whether the guest has done so itself @throws VmStoreError (ESTOPPED) */
export async function stopVm(store: VmStore, name: string, options: StopOptions = {}): Promise<boolean> {
  const { timeout = 60_000, force = false } = options;
  using connection = new VmConnection(store, name);
  if (!force) {
    await connection.control.stop('request').catch(() => undefined);
    if (await ended(store, name, timeout)) return true;
  }
  await connection.control.stop('force').catch(() => undefined);
  if (!(await ended(store, name, 10_000))) await killVm(store, name);
  return false;
}

/** Kills a VM's process; what the guest has not flushed is lost. @throws VmStoreError (ESTOPPED) */
export async function killVm(store: VmStore, name: string): Promise<void> {
  if (store.status(name).state !== 'running')
    throw new VmStoreError('ESTOPPED', `the VM '${name}' is not running`);
  // Not by the number that it has noted: that may be another's by now.
  const folder = store.folderOf(name);
  const pid = processOf(folder);
  if (pid !== undefined) process.kill(pid, 'SIGKILL');
  if (!(await ended(store, name, KILL_LIMIT)))
    throw new VmStoreError('EKILL', `the process of the VM '${name}' does not end, even when it is killed`);
  if (!existsSync(folder)) return;
  const record = readRecord(folder);
  // It was asked for, so it is no crash.
  if (record !== undefined && record.pid === pid && record.end === undefined) {
    store.events?.add(name, 'killed');
    writeRecord(folder, {
      ...record,
      end: { at: Date.now(), reason: 'killed', message: 'its process was killed' },
    });
  }
}

/** Removes the control group of a process that has ended. */
function dropGroup(folder: string): void {
  const group = readRecord(folder)?.group;
  if (group !== undefined) removeGroup(group);
}

/** Waits until a VM does not run, or is not there. @returns false where `timeout` milliseconds have passed */
export async function ended(store: VmStore, name: string, timeout: number): Promise<boolean> {
  const end = performance.now() + timeout;
  try {
    for (let pause = FIRST_POLL; store.status(name).state === 'running';) {
      if (performance.now() > end) return false;
      await sleep(pause);
      pause = Math.min(1.2 * pause, LAST_POLL);
    }
    dropGroup(store.folderOf(name));
  } catch (error) {
    // One that was for a command is deleted with its end.
    if (!(error instanceof VmStoreError) || error.code !== 'ENOVM') throw error;
  }
  return true;
}
