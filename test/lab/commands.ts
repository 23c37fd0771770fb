import type { Duplex, Readable } from 'node:stream';
import {
  encodeFrame,
  FRAME,
  FrameDecoder,
  STDIN_WINDOW,
  type ExitReport,
  type Frame,
  type FrameType,
  type StartRequest,
} from './protocol.ts';

export type ExecOptions = {
  /** default {@link DEFAULT_TIMEOUT_MS}; Infinity for none. Then the command and its process group are killed. */
  readonly timeoutMs?: number;
  /** default: that of this process */
  readonly cwd?: string;
  /** besides the environment of this process, and before it */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** default: none, so that the command reads an end of file */
  readonly stdin?: string | Uint8Array | Readable;
  /** is given the output as it comes */
  readonly onOutput?: (data: Buffer, stream: 'stdout' | 'stderr') => void;
  /** false: the output goes to `onOutput` only */
  readonly collect?: boolean;
};

export type ExecResult = {
  /** exit status, or 128 + the signal's number */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** killed because it did not end within its limit */
  readonly timedOut: boolean;
};

/** argv, or a line for /bin/sh */
export type Command = string | readonly string[];

export const DEFAULT_TIMEOUT_MS = 120_000;
/** How long after a kill the report of it may take before level 1 counts as hung. */
const KILL_GRACE_MS = 5_000;

/** Level 1 could not be started, is lost or hangs. The message has the end of its console. */
export class LabError extends Error {
  override readonly name = 'LabError';
}

/** Where a command runs: one end of {@link execIn}. */
export type OpenCommand = {
  send(type: FrameType, payload?: Uint8Array | string): void;
  /** no more events are wanted */
  close(): void;
};

export type CommandListener = {
  frame(type: number, payload: Buffer): void;
  lost(error: Error): void;
};

/** The host's side of a control channel: carries many commands over one stream. */
export class CommandChannel {
  /** Resolves when commands can be started, to the frame's payload; rejects where the channel is lost before. */
  readonly ready: Promise<string>;
  readonly #stream: Duplex;
  readonly #listeners = new Map<number, CommandListener>();
  #nextId = 1;
  #lost: Error | undefined;
  #isReady!: (payload: string) => void;
  #isNotReady!: (error: Error) => void;

  /** @param other is given the frames that belong to no command */
  constructor(stream: Duplex, other: (type: number, payload: Buffer) => void) {
    this.#stream = stream;
    this.ready = new Promise((resolve, reject) => {
      this.#isReady = resolve;
      this.#isNotReady = reject;
    });
    // Whoever does not wait for it learns of the loss from its commands.
    this.ready.catch(() => undefined);
    const decoder = new FrameDecoder();
    stream.on('data', (bytes: Buffer) => {
      try {
        for (const frame of decoder.push(bytes)) this.#dispatch(frame, other);
      } catch (error) {
        this.lose(error instanceof Error ? error : new Error(String(error)));
        stream.destroy();
      }
    });
    stream.on('error', () => undefined);
  }

  get lost(): Error | undefined {
    return this.#lost;
  }

  open(listener: CommandListener): OpenCommand {
    const id = this.#nextId++;
    this.#listeners.set(id, listener);
    if (this.#lost !== undefined) queueMicrotask(() => listener.lost(this.#lost!));
    return {
      send: (type, payload) => this.send(type, id, payload),
      close: () => this.#listeners.delete(id),
    };
  }

  send(type: FrameType, command: number, payload?: Uint8Array | string): void {
    if (this.#lost === undefined) this.#stream.write(encodeFrame(type, command, payload));
  }

  /** Ends all pending commands with an error. Only the first loss counts. */
  lose(error: Error): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    this.#isNotReady(error);
    const listeners = [...this.#listeners.values()];
    this.#listeners.clear();
    for (const listener of listeners) listener.lost(error);
  }

  #dispatch({ type, command, payload }: Frame, other: (type: number, payload: Buffer) => void): void {
    if (type === FRAME.ready) this.#isReady(payload.toString());
    else if (command === 0) other(type, payload);
    else this.#listeners.get(command)?.frame(type, payload);
  }
}

/** What a command is started with. */
export function startRequest(command: Command, options: ExecOptions): StartRequest {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries({ ...process.env, ...options.env })) {
    if (value !== undefined) env[name] = value;
  }
  const argv = typeof command === 'string' ? ['/bin/sh', '-c', command] : command;
  if (argv.length === 0) throw new TypeError('exec: no command');
  return { argv, cwd: options.cwd ?? process.cwd(), env };
}

/**
 * Runs a command over an open channel.
 * @param consoleTail the end of level 1's console, for the error where it hangs
 * @throws LabError where level 1 is lost or does not even answer to a kill; Error where the command cannot be started
 */
export function execOver(
  channel: CommandChannel,
  command: Command,
  options: ExecOptions,
  consoleTail: () => Promise<string>,
): Promise<ExecResult> {
  // In the lab guests run directly.
  const request = startRequest(command, { ...options, env: { ...options.env, TSVM_LAB: 'never' } });
  const collector = new OutputCollector(options);
  return new Promise((resolve, reject) => {
    let timedOut = false;
    let timer: NodeJS.Timeout | undefined;
    const settle = (): void => {
      clearTimeout(timer);
      input.stop();
      open.close();
    };
    const open = channel.open({
      frame: (type, payload) => {
        if (type === FRAME.stdout) collector.add('stdout', payload);
        else if (type === FRAME.stderr) collector.add('stderr', payload);
        else if (type === FRAME.stdinTaken) input.taken(payload.readUInt32LE(0));
        else if (type === FRAME.exit) {
          settle();
          const { code } = JSON.parse(payload.toString()) as ExitReport;
          resolve({ code, ...collector.text(), timedOut });
        } else if (type === FRAME.failed) {
          settle();
          reject(new Error(payload.toString()));
        }
      },
      lost: (error) => {
        settle();
        reject(error);
      },
    });
    const input = new InputPump(options.stdin, open);
    const onTimeout = (): void => {
      timedOut = true;
      open.send(FRAME.kill);
      timer = setTimeout(() => {
        settle();
        const what = `${describe(command)} did not end within ${String(options.timeoutMs ?? DEFAULT_TIMEOUT_MS)} ms`;
        void consoleTail().then((tail) =>
          reject(new LabError(`${what}, and level 1 does not answer${tail}`)),
        );
      }, KILL_GRACE_MS);
    };
    open.send(FRAME.start, JSON.stringify(request));
    const limit = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    if (Number.isFinite(limit)) timer = setTimeout(onTimeout, limit);
    input.start();
  });
}

export function describe(command: Command): string {
  const text = typeof command === 'string' ? command : command.join(' ');
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Gathers a command's output and passes it on. */
export class OutputCollector {
  readonly #options: ExecOptions;
  readonly #parts = { stdout: [] as Buffer[], stderr: [] as Buffer[] };

  constructor(options: ExecOptions) {
    this.#options = options;
  }

  add(stream: 'stdout' | 'stderr', data: Buffer): void {
    if (this.#options.collect !== false) this.#parts[stream].push(data);
    this.#options.onOutput?.(data, stream);
  }

  text(): { stdout: string; stderr: string } {
    return {
      stdout: Buffer.concat(this.#parts.stdout).toString(),
      stderr: Buffer.concat(this.#parts.stderr).toString(),
    };
  }
}

/** Sends standard input, no more ahead than the command takes. */
class InputPump {
  readonly #source: ExecOptions['stdin'];
  readonly #open: OpenCommand;
  #underWay = 0;
  #stopped = false;
  #resume: (() => void) | undefined;

  constructor(source: ExecOptions['stdin'], open: OpenCommand) {
    this.#source = source;
    this.#open = open;
  }

  start(): void {
    void this.#run().catch(() => this.#open.send(FRAME.stdinEnd));
  }

  taken(bytes: number): void {
    this.#underWay -= bytes;
    this.#resume?.();
  }

  stop(): void {
    this.#stopped = true;
    this.#resume?.();
  }

  async #run(): Promise<void> {
    for await (const chunk of chunksOf(this.#source)) {
      while (this.#underWay >= STDIN_WINDOW && !this.#hasStopped()) {
        await new Promise<void>((resolve) => (this.#resume = resolve));
      }
      if (this.#hasStopped()) return;
      this.#underWay += chunk.length;
      this.#open.send(FRAME.stdin, chunk);
    }
    this.#open.send(FRAME.stdinEnd);
  }

  #hasStopped(): boolean {
    return this.#stopped;
  }
}

const CHUNK = 64 * 1024;

async function* chunksOf(source: ExecOptions['stdin']): AsyncGenerator<Buffer> {
  if (source === undefined) return;
  if (typeof source === 'string' || source instanceof Uint8Array) {
    const bytes = Buffer.from(source);
    for (let at = 0; at < bytes.length; at += CHUNK) yield bytes.subarray(at, at + CHUNK);
    return;
  }
  for await (const chunk of source as AsyncIterable<string | Uint8Array>) yield* chunksOf(Buffer.from(chunk));
}
