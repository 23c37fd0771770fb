import type * as v from 'valibot';
import type { AgentChannel, AgentLimits } from './channel.ts';
import { AgentTimeoutError } from './errors.ts';
import { sleep } from '../sleep.ts';
import { execStarted, execStatus } from './replies.ts';

/** The agent keeps a command's input in memory. */
const INPUT_LIMIT = 16 * 1024 * 1024;
/** Waits between looks at a command, rising from the first to the last. */
const FIRST_LOOK_MS = 5;
const LAST_LOOK_MS = 250;
const LOOK_GROWTH = 1.5;
/**
 * How long the agent may be silent while a command runs, where nothing else is asked for: a guest that has much to do, or
 * is paused meanwhile, has not lost its command.
 */
const SILENCE_LIMIT_MS = 60_000;
/** What a command that is to end is given to clean up, and what killing it may take. */
const TERM_LIMIT_MS = 1000;
const KILL_LIMIT_MS = 2000;

export type ExecOptions = {
  /** all of the command's environment; default the agent's own */
  readonly env?: Readonly<Record<string, string>>;
  /** standard input, at most 16 MiB; default empty */
  readonly input?: Uint8Array | string;
  /** keep what it says, at most 16 MiB of each stream; default true */
  readonly captureOutput?: boolean;
  /** in milliseconds; default none. A command that runs out of time is ended, those that it started are not */
  readonly timeout?: number;
  /** ends the command as well: by SIGTERM, and by SIGKILL where that does not do it within a second */
  readonly signal?: AbortSignal;
};

export type ExecResult = {
  /** its exit code, or undefined where a signal has ended it */
  readonly exitCode: number | undefined;
  /** number of the signal that has ended it */
  readonly signal: number | undefined;
  /** empty where output is not captured */
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** there was more than the agent keeps */
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
};

/**
 * Runs a command in the guest and waits for its end.
 * @param limits of each single request
 * @throws AgentCommandError where it cannot be started; AgentTimeoutError; the signal's reason
 */
export async function exec(
  channel: AgentChannel,
  command: string,
  args: readonly string[],
  options: ExecOptions,
  limits: AgentLimits,
): Promise<ExecResult> {
  const { env, timeout, signal } = options;
  const input = typeof options.input === 'string' ? Buffer.from(options.input) : options.input;
  if (input !== undefined && input.length > INPUT_LIMIT)
    throw new RangeError(
      `input of ${input.length} bytes for a command in the guest, and the limit is 16 MiB`,
    );
  const end = timeout === undefined ? Infinity : performance.now() + timeout;
  signal?.throwIfAborted();
  const request = {
    path: command,
    arg: args,
    'capture-output': options.captureOutput ?? true,
    ...(env && { env: Object.entries(env).map(([key, value]) => `${key}=${value}`) }),
    ...(input && { 'input-data': Buffer.from(input).toString('base64') }),
  };
  // Not ended by the signal: a command whose number is not known could not be ended.
  const { pid } = await channel.request('guest-exec', request, execStarted, limits);
  for (let wait = FIRST_LOOK_MS; ; wait = Math.min(wait * LOOK_GROWTH, LAST_LOOK_MS)) {
    const silence = limits.timeout ?? SILENCE_LIMIT_MS;
    const time = Math.max(1, end - performance.now());
    const asked = { ...limits, timeout: Math.min(silence, time), ...(signal && { signal }) };
    const status = await channel
      .request('guest-exec-status', { pid }, execStatus, asked)
      .catch((error: unknown) => {
        if (signal?.aborted === true || (time <= silence && error instanceof AgentTimeoutError))
          return undefined;
        throw error;
      });
    if (status?.exited === true) return resultOf(status);
    const left = end - performance.now();
    if (left <= 0 || signal?.aborted === true) {
      const killed = await kill(channel, pid);
      signal?.throwIfAborted();
      const fate = killed ? 'it was killed' : `it may still run, as process ${pid}`;
      throw new AgentTimeoutError(`end of the command ${command}`, timeout ?? 0, fate);
    }
    await sleep(Math.min(wait, left), signal);
  }
}

function resultOf(status: v.InferOutput<typeof execStatus>): ExecResult {
  return {
    exitCode: status.exitcode,
    signal: status.signal,
    stdout: Buffer.from(status['out-data'] ?? '', 'base64'),
    stderr: Buffer.from(status['err-data'] ?? '', 'base64'),
    stdoutTruncated: status['out-truncated'] ?? false,
    stderrTruncated: status['err-truncated'] ?? false,
  };
}

/** The agent cannot end a command, a shell can. Returns whether it has ended. */
async function kill(channel: AgentChannel, pid: number): Promise<boolean> {
  try {
    return (
      (await killBy(channel, pid, 'TERM', TERM_LIMIT_MS)) ||
      (await killBy(channel, pid, 'KILL', KILL_LIMIT_MS))
    );
  } catch {
    return false;
  }
}

async function killBy(
  channel: AgentChannel,
  pid: number,
  signal: 'TERM' | 'KILL',
  limit: number,
): Promise<boolean> {
  const end = performance.now() + limit;
  const limits = { timeout: KILL_LIMIT_MS };
  const request = { path: '/bin/sh', arg: ['-c', `kill -${signal} ${pid}`] };
  const killer = await channel.request('guest-exec', request, execStarted, limits);
  // The agent holds what it knows of a process until its end was asked for, the killer's too.
  let waiting = [killer.pid, pid];
  for (let wait = FIRST_LOOK_MS; waiting.length > 0 && performance.now() < end; wait *= LOOK_GROWTH) {
    await sleep(Math.min(wait, LAST_LOOK_MS));
    const running: number[] = [];
    for (const each of waiting) {
      const { exited } = await channel.request('guest-exec-status', { pid: each }, execStatus, limits);
      if (!exited) running.push(each);
    }
    waiting = running;
  }
  return !waiting.includes(pid);
}
