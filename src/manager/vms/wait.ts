import { openSync, closeSync, existsSync, fstatSync, readSync } from 'node:fs';
import { basename, join } from 'node:path';
import { sleep } from '../sleep.ts';
import { VmConnection } from './lifecycle.ts';
import { VmStoreError, type VmStore } from './store.ts';

/** What can be waited for. A regular expression is looked for in what the console says from the VM's start on. */
export type WaitTarget = 'running' | 'agent' | 'login' | 'stopped' | RegExp;

export type WaitOptions = {
  /** milliseconds; default 5 minutes */
  readonly timeout?: number;
  readonly signal?: AbortSignal;
};

/** It has not come in time, or cannot come any more; the message has the end of the console. */
export class WaitError extends Error {
  override readonly name = 'WaitError';
  readonly code: 'EWAITTIMEOUT' | 'EWAITENDED';

  constructor(code: 'EWAITTIMEOUT' | 'EWAITENDED', message: string) {
    super(message);
    this.code = code;
  }
}

const DEFAULT_TIMEOUT = 300_000;
/** Looks come less and less often, in milliseconds: many take a time that the guest could have. */
const FIRST_POLL = 10;
const LAST_POLL = 250;
/** A prompt, which the kernel may have written behind since. */
const LOGIN = /\blogin: ?(?:$|(?=\[ *\d+\.\d+\] ))/m;
const TAIL_LINES = 20;
/** of the console's log that is searched, from its end */
const SEARCHED = 1024 * 1024;

/** @throws WaitError, the signal's reason */
export async function waitFor(
  store: VmStore,
  name: string,
  target: WaitTarget,
  options: WaitOptions = {},
): Promise<void> {
  const { timeout = DEFAULT_TIMEOUT, signal } = options;
  const folder = store.folderOf(name);
  const end = performance.now() + timeout;
  for (let pause = FIRST_POLL; ; pause = Math.min(1.2 * pause, LAST_POLL)) {
    signal?.throwIfAborted();
    const running = store.status(name).state === 'running';
    if (await isThere(store, name, target, running, end - performance.now(), signal)) return;
    const over = performance.now() >= end;
    if (over || (!running && target !== 'stopped' && target !== 'running'))
      throw waitError(folder, target, over ? timeout : undefined);
    await sleep(pause, signal);
  }
}

/** @param timeout that is over, in milliseconds; undefined: the VM does not run any more */
export function waitError(folder: string, target: WaitTarget, timeout: number | undefined): WaitError {
  const what = typeof target === 'string' ? `'${target}'` : String(target);
  const why = timeout === undefined ? 'and it does not run' : `not within ${timeout / 1000} s`;
  return new WaitError(
    timeout === undefined ? 'EWAITENDED' : 'EWAITTIMEOUT',
    `the VM '${basename(folder)}' has not come to ${what}, ${why}${tailOf(folder)}`,
  );
}

async function isThere(
  store: VmStore,
  name: string,
  target: WaitTarget,
  running: boolean,
  left: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  if (target === 'stopped') return !running;
  if (!running) return false;
  if (target === 'running') return true;
  if (target === 'agent') return hasAgent(() => new VmConnection(store, name), left, signal);
  return (target === 'login' ? LOGIN : target).test(
    consoleOf(store.folderOf(name), store.status(name).record?.consoleFrom),
  );
}

/** Whether a guest's agent answers, after a while of waiting for it. @param left of the time for that, in milliseconds */
export async function hasAgent(
  connect: () => VmConnection,
  left: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  try {
    using connection = connect();
    await connection.control.waitForAgent(Math.max(1, Math.min(left, 2000)), signal);
    return true;
  } catch (error) {
    // Nothing else is to be said of a guest whose agent is not there yet, or of a VM that ends just now.
    if (signal?.aborted === true || !(error instanceof Error) || !('code' in error)) throw error;
    return false;
  }
}

/** What the console has said since the VM was started, or the end of that. */
export function consoleBytes(folder: string, from = 0): Buffer {
  const path = join(folder, 'log', 'console.log');
  if (!existsSync(path)) return Buffer.alloc(0);
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    // A log that was begun anew is shorter.
    const start = Math.max(from > size ? 0 : from, size - SEARCHED);
    const bytes = Buffer.alloc(size - start);
    return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, start));
  } finally {
    closeSync(fd);
  }
}

const consoleOf = (folder: string, from?: number): string =>
  consoleBytes(folder, from).toString('utf8').replaceAll('\r', '');

function tailOf(folder: string): string {
  const lines = consoleOf(folder).trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
  return lines === '' ? '; its console has said nothing' : `; its console's last lines:\n${lines}`;
}

/** @throws VmStoreError where the text is no target */
export function parseWaitTarget(text: string): WaitTarget {
  if (text === 'running' || text === 'agent' || text === 'login' || text === 'stopped') return text;
  const pattern = /^\/(.+)\/([imsu]*)$/s.exec(text);
  try {
    if (pattern !== null) return new RegExp(pattern[1]!, pattern[2]);
  } catch (error) {
    throw new VmStoreError(
      'EPATTERN',
      `'${text}': ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  throw new VmStoreError('EPATTERN', `'${text}' is none of running, agent, login, stopped, and no /pattern/`);
}
