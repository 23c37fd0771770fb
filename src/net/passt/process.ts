import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
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
export type PasstEnd = {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** the last that it said */
  readonly said: readonly string[];
};

/** The number of the socket in the child. */
export const PASST_FD = 3;

/** One passt, from its start to its end. It ends with its socket, and so with this process, however that ends. */
export class PasstProcess {
  /** resolves with its end; never rejects */
  readonly ended: Promise<PasstEnd>;
  readonly #child: ChildProcess;
  readonly #said: string[] = [];
  #ready: (() => void) | undefined;

  /**
   * Starts it and waits until it listens on its ports.
   * @returns it with the socket for its frames, the caller's to close
   * @throws NetworkError with what it said where it ends before
   */
  static async start(
    program: string,
    args: readonly string[],
  ): Promise<{ readonly passt: PasstProcess; readonly socket: number }> {
    const [socket, its] = unixPair();
    let passt: PasstProcess;
    try {
      passt = new PasstProcess(program, args, its);
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

  private constructor(program: string, args: readonly string[], socket: number) {
    // In a session of its own no key of the terminal ends it before the VM.
    const child = spawn(program, args, {
      stdio: ['ignore', 'ignore', 'pipe', socket],
      env: { LC_ALL: 'C' },
      cwd: '/',
      detached: true,
    });
    this.#child = child;
    child.unref();
    const lines = createInterface({ input: child.stderr! });
    lines.on('line', (line) => this.#take(line));
    if (child.stderr instanceof Socket) child.stderr.unref();
    this.ended = new Promise((resolve) => {
      const end = (code: number | null, signal: NodeJS.Signals | null): void =>
        resolve({ code, signal, said: this.#said });
      child.once('error', (error) => {
        this.#take(error.message);
        end(null, null);
      });
      child.once('close', end);
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Waits for its end, which its socket's end brings; no longer than it takes to kill it. */
  async end(): Promise<void> {
    const timer = setTimeout(() => this.kill(), END_LIMIT_MS);
    await this.ended;
    clearTimeout(timer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
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
