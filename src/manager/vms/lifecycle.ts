import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { packageRoot } from '../../kvm/package-root.ts';
import { ControlClient } from '../control/client.ts';
import { CONSOLE_SOCKET, CONTROL_SOCKET } from '../control/types.ts';
import { FileLocks } from '../../storage/file-lock.ts';
import { removeGroup } from '../vmm/cgroup.ts';
import { readRecord, writeRecord } from '../vmm/record.ts';
import { TIE_FD } from '../vmm/tie.ts';
import { processOf, VmStoreError, type VmStore } from './store.ts';

/** A VM's process has to be up within this time; the guest boots after that. In milliseconds. */
const START_LIMIT = 120_000;
const POLL_MS = 25;
/** After SIGKILL the kernel has to free the guest's memory. */
const KILL_LIMIT = 60_000;

/** What a process says when it is up, or that it is not. One line of JSON on its descriptor 3. */
export const startReport = v.union([
  v.object({ ready: v.literal(true) }),
  v.object({
    error: v.object({ message: v.string(), hint: v.optional(v.string()), code: v.optional(v.string()) }),
  }),
]);
export type StartReport = v.InferOutput<typeof startReport>;
export const REPORT_FD = 3;

/** A running VM's sockets, for as long as this is open. */
export class VmConnection implements Disposable {
  readonly control: ControlClient;
  readonly consolePath: string;
  readonly #fd: number;

  /** @throws VmStoreError (ESTOPPED) */
  constructor(store: VmStore, name: string) {
    const folder = store.folderOf(name);
    if (store.status(name).state !== 'running')
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
  const lock = new FileLocks([[lockFile(folder), 'write']]);
  try {
    if (store.status(name).state === 'running')
      throw new VmStoreError('ERUNNING', `the VM '${name}' is running already`);
    // Who was killed by somebody else could not say so.
    const before = readRecord(folder);
    if (before !== undefined && before.end === undefined)
      store.events?.add(name, 'crashed', 'its process was killed');
    dropGroup(folder);
    const output = openSync(join(folder, 'process.out'), 'w', 0o600);
    let child: ChildProcess;
    try {
      const { jail, tied = false } = options;
      const args = [...(jail === undefined ? [] : ['--jail', jail]), ...(tied ? ['--tied'] : []), folder];
      child = spawn(process.execPath, [join(packageRoot(), 'dist/tsvm.js'), 'vm-process', ...args], {
        detached: true,
        cwd: '/',
        // An io_uring of Node's own could do what its process may not (native/seccomp.cc).
        env: { ...process.env, UV_USE_IO_URING: '0' },
        stdio: ['ignore', output, output, 'pipe', ...(tied ? (['pipe'] as const) : [])],
      });
    } finally {
      closeSync(output);
    }
    await reported(child, name);
    child.unref();
    // Held until this process ends; what has it open must not keep it alive.
    if (options.tied === true) (child.stdio[TIE_FD] as Socket).unref();
  } finally {
    lock.release();
  }
}

async function reported(child: ChildProcess, name: string): Promise<void> {
  const pipe = child.stdio[REPORT_FD] as Readable;
  const limit = setTimeout(() => child.kill('SIGKILL'), START_LIMIT);
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
    if (!result.success)
      throw new VmStoreError(
        'ESTART',
        `the process of the VM '${name}' ended before the VM ran`,
        `\`tsvm logs --process ${name}\` may tell why`,
      );
    if ('error' in result.output) {
      const { message, hint, code } = result.output.error;
      throw new VmStoreError(code ?? 'ESTART', `the VM '${name}' cannot be started: ${message}`, hint);
    }
  } finally {
    clearTimeout(limit);
    pipe.destroy();
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

/** Waits until a VM does not run. @returns false where `timeout` milliseconds have passed */
export async function ended(store: VmStore, name: string, timeout: number): Promise<boolean> {
  const end = performance.now() + timeout;
  while (store.status(name).state === 'running') {
    if (performance.now() > end) return false;
    await sleep(POLL_MS);
  }
  dropGroup(store.folderOf(name));
  return true;
}

const lockFile = (folder: string): string => {
  const path = join(folder, 'start.lock');
  closeSync(openSync(path, 'a', 0o600));
  return path;
};
