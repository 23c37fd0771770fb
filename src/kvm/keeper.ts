import { spawn } from 'node:child_process';
import { closeSync, existsSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { constants } from 'node:os';
import { packageRoot } from './package-root.ts';
import { sendDescriptor, unixPair } from './unix-socket.ts';

/** How a command ended; both null where it could not be run. */
export type CommandEnd = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

const COULD_NOT_RUN = 127;

/**
 * A process beside this one that runs one command whenever it is asked to: for one that will not be allowed to run
 * anything itself. It ends with this process; what it runs goes on.
 */
export class Keeper {
  readonly #socket: number;
  readonly #stream: Socket;
  #ended: ((end: CommandEnd) => void) | undefined;
  #closed = false;

  /** @param command an absolute path, and arguments */
  constructor(command: readonly [string, ...string[]], env: NodeJS.ProcessEnv) {
    const [socket, its] = unixPair();
    this.#socket = socket;
    try {
      const child = spawn(keeperPath(), command, {
        stdio: [its, 'ignore', 'ignore'],
        env,
        cwd: '/',
        detached: true,
      });
      child.on('error', () => this.#tell({ code: null, signal: null }));
      child.unref();
    } finally {
      closeSync(its);
    }
    this.#stream = new Socket({ fd: socket, readable: true, writable: true });
    this.#stream.unref();
    this.#stream.on('error', () => undefined);
    this.#stream.on('close', () => {
      this.#closed = true;
      this.#tell({ code: null, signal: null });
    });
    createInterface({ input: this.#stream }).on('line', (line) => this.#tell(endOf(line)));
  }

  /**
   * Runs the command; nothing of it runs.
   * @param output becomes its standard output and error @param extra become its descriptors from 3 on. All stay open
   * here.
   * @returns its end; never rejects
   */
  run(output: number, extra: readonly number[] = []): Promise<CommandEnd> {
    if (this.#closed) return Promise.resolve({ code: null, signal: null });
    return new Promise((resolve) => {
      this.#ended = resolve;
      try {
        for (const fd of [output, ...extra]) sendDescriptor(this.#socket, fd);
        writeSync(this.#socket, 'r');
      } catch {
        this.#tell({ code: null, signal: null });
      }
    });
  }

  /** Kills what runs. */
  kill(): void {
    if (this.#closed) return;
    try {
      writeSync(this.#socket, 'k');
    } catch {
      // It has gone, and its end is told.
    }
  }

  close(): void {
    this.#closed = true;
    this.#stream.destroy();
  }

  #tell(end: CommandEnd): void {
    const ended = this.#ended;
    this.#ended = undefined;
    ended?.(end);
  }
}

function endOf(line: string): CommandEnd {
  const [how, text] = line.split(' ');
  const number = Number(text);
  if (how === 'signal') {
    const names = Object.entries(constants.signals) as [NodeJS.Signals, number][];
    return { code: null, signal: names.find(([, value]) => value === number)?.[0] ?? 'SIGKILL' };
  }
  return { code: number === COULD_NOT_RUN ? null : number, signal: null };
}

/** It is built with the addon, and lies beside it. */
function keeperPath(): string {
  const addon = process.env['TSVM_ADDON'];
  const folders = [
    ...(addon === undefined ? [] : [dirname(addon)]),
    join(packageRoot(), 'build/Release'),
    join(packageRoot(), 'build/Debug'),
  ];
  const path = folders.map((folder) => join(folder, 'tsvm-keeper')).find((each) => existsSync(each));
  if (path === undefined)
    throw Object.assign(
      new Error('the program tsvm-keeper is not built: it is not beside the native addon'),
      { hint: 'build it with `npm run build` (needs g++, make and python3)' },
    );
  return path;
}
