import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { createInterface } from 'node:readline';
import type { CommandEnd, Keeper } from '../../kvm/keeper.ts';
import { unixPair } from '../../kvm/unix-socket.ts';
import { NetworkError } from '../network-error.ts';

/** What passt says of its settings once it listens on its ports, before it serves: in all its versions. */
const READY = /^\s*(Template interface|Outbound interface|MAC|DHCP|DNS|NDP)\b.*:/;
/** One that says nothing is taken to be ready after this. */
const READY_LIMIT_MS = 3000;
/** How long it may take to end after its socket is closed. */
const END_LIMIT_MS = 1000;
/** Where there is no system log it says so with each line. */
const NOISE = /^Failed to send \d+ bytes to syslog$/;
const LAST_LINES = 5;
const LINE_LIMIT = 300;

/** How a run of passt ended. */
export type PasstEnd = CommandEnd & {
  /** the last that it said */
  readonly said: readonly string[];
};

/** The number of the socket in the child. */
export const PASST_FD = 3;

/** A run that has begun. */
type Run = {
  readonly stderr: Readable;
  /** resolves when it has ended and all that it said was read; never rejects */
  readonly ended: Promise<CommandEnd & { readonly reason?: string }>;
  readonly kill: () => void;
};

/** Runs passt with its end of a socket as {@link PASST_FD}; the socket stays open here. */
export type PasstLauncher = (socket: number) => Run;

/** The environment of passt: its messages are read. */
export const PASST_ENV = { LC_ALL: 'C' };

/** A child of this process. */
export function launchPasst(program: string, args: readonly string[]): PasstLauncher {
  return (socket) => {
    // In a session of its own no key of the terminal ends it before the VM.
    const child = spawn(program, args, {
      stdio: ['ignore', 'ignore', 'pipe', socket],
      env: PASST_ENV,
      cwd: '/',
      detached: true,
    });
    child.unref();
    const stderr = child.stderr!;
    if (stderr instanceof Socket) stderr.unref();
    const ended = new Promise<Awaited<Run['ended']>>((resolve) => {
      child.once('error', ({ message }) => resolve({ code: null, signal: null, reason: message }));
      child.once('close', (code, signal) => resolve({ code, signal }));
    });
    return { stderr, ended, kill: () => child.kill('SIGKILL') };
  };
}

/** A child of a keeper, which has the command line. */
export function launchKeptPasst(keeper: Keeper): PasstLauncher {
  return (socket) => {
    const [said, its] = unixPair();
    const stderr = new Socket({ fd: said, readable: true, writable: false });
    stderr.unref();
    stderr.on('error', () => undefined);
    const read = new Promise((resolve) => stderr.once('close', resolve));
    const end = keeper.run(its, [socket]);
    closeSync(its);
    const ended = end.then(async (how) => {
      await read;
      return how;
    });
    return { stderr, ended, kill: () => keeper.kill() };
  };
}

/** One passt, from its start to its end. It ends with its socket, and so with this process, however that ends. */
export class PasstProcess {
  /** resolves with its end; never rejects */
  readonly ended: Promise<PasstEnd>;
  readonly #run: Run;
  readonly #said: string[] = [];
  #ready: (() => void) | undefined;

  /**
   * Starts it and waits until it listens on its ports.
   * @returns it with the socket for its frames, the caller's to close
   * @throws NetworkError with what it said where it ends before
   */
  static async start(
    launch: PasstLauncher,
  ): Promise<{ readonly passt: PasstProcess; readonly socket: number }> {
    const [socket, its] = unixPair();
    let passt: PasstProcess;
    try {
      passt = new PasstProcess(launch(its));
    } catch (error) {
      closeSync(socket);
      throw error;
    } finally {
      closeSync(its);
    }
    const end = await passt.#up();
    if (end === undefined) return { passt, socket };
    closeSync(socket);
    throw new NetworkError('ECHILD', `passt did not start: ${describeEnd(end)}`);
  }

  private constructor(run: Run) {
    this.#run = run;
    const lines = createInterface({ input: run.stderr });
    lines.on('line', (line) => this.#take(line));
    this.ended = run.ended.then(({ reason, ...end }) => {
      if (reason !== undefined) this.#take(reason);
      return { ...end, said: this.#said };
    });
  }

  /** Waits for its end, which its socket's end brings; no longer than it takes to kill it. */
  async end(): Promise<void> {
    const timer = setTimeout(() => this.kill(), END_LIMIT_MS);
    await this.ended;
    clearTimeout(timer);
  }

  kill(): void {
    this.#run.kill();
  }

  /** Resolves to its end, or undefined where it is up. */
  async #up(): Promise<PasstEnd | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const up = new Promise<undefined>((resolve) => {
      this.#ready = () => resolve(undefined);
      timer = setTimeout(resolve, READY_LIMIT_MS, undefined);
    });
    try {
      return await Promise.race([this.ended, up]);
    } finally {
      clearTimeout(timer);
    }
  }

  #take(line: string): void {
    const text = line.trim();
    if (READY.test(text)) this.#ready?.();
    if (text === '' || NOISE.test(text)) return;
    this.#said.push(text.slice(0, LINE_LIMIT));
    if (this.#said.length > LAST_LINES) this.#said.shift();
  }
}

/** For people, in one line. */
export function describeEnd({ code, signal, said }: PasstEnd): string {
  const how =
    signal !== null ? `killed by ${signal}` : code === null ? 'it could not be run' : `status ${code}`;
  const last = said.at(-1);
  return last === undefined ? how : `${how}: ${last}`;
}
