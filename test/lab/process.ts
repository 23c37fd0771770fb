import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { statSync } from 'node:fs';
import { constants } from 'node:os';
import type { StartRequest } from './protocol.ts';

export type ProcessEvents = {
  output(stream: 'stdout' | 'stderr', data: Buffer): void;
  /** that many more bytes of standard input were taken */
  stdinTaken(bytes: number): void;
  /** ended, and all output was given; `code` is 128 + the signal's number after a signal */
  exit(code: number): void;
  /** could not be started */
  failed(message: string): void;
};

/**
 * A command in a process group of its own, so that it can be ended with all it started. The agent in level 1 runs
 * commands by this, and so does the host where no lab is needed. (execa ends a child only, not its descendants.)
 */
export class CommandProcess {
  readonly #child: ChildProcessWithoutNullStreams;
  #ended = false;

  constructor(request: StartRequest, events: ProcessEvents) {
    const [file = '', ...args] = request.argv;
    this.#child = spawn(file, args, { cwd: request.cwd, env: request.env, detached: true });
    const child = this.#child;
    child.stdout.on('data', (data: Buffer) => events.output('stdout', data));
    child.stderr.on('data', (data: Buffer) => events.output('stderr', data));
    // A command may end without reading all of its input.
    child.stdin.on('error', () => undefined);
    this.#stdinTaken = (bytes) => events.stdinTaken(bytes);
    child.once('error', (error) => {
      if (this.#ended || child.pid !== undefined) return;
      this.#ended = true;
      events.failed(explain(error, request));
    });
    child.once('close', (code, signal) => {
      if (this.#ended) return;
      this.#ended = true;
      events.exit(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
    });
  }

  readonly #stdinTaken: (bytes: number) => void;

  write(data: Uint8Array): void {
    this.#child.stdin.write(data, () => this.#stdinTaken(data.length));
  }

  endStdin(): void {
    this.#child.stdin.end();
  }

  /** Kills the command and every process of its group. */
  kill(): void {
    const { pid } = this.#child;
    if (pid === undefined) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // The group is gone already.
    }
  }

  /** Stops or goes on reading its output, so that a command that floods waits. */
  pause(paused: boolean): void {
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      if (paused) stream.pause();
      else stream.resume();
    }
  }
}

/** spawn reports a missing working directory as if the program were missing. */
function explain(error: Error, request: StartRequest): string {
  const isDirectory = statSync(request.cwd, { throwIfNoEntry: false })?.isDirectory() ?? false;
  return isDirectory
    ? `cannot run ${request.argv[0] ?? ''}: ${error.message}`
    : `cannot run ${request.argv[0] ?? ''}: no directory ${request.cwd}`;
}
