import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { ControlError } from '../control/errors.ts';
import type { ExecChunk, ExecEnd, ExecStream } from '../control/exec-stream.ts';
import type { VmConnection } from './lifecycle.ts';

/** How long a guest may take until its agent answers, in milliseconds. */
const AGENT_TIMEOUT = 60_000;
/** Kept of each stream for whoever waits for all of it, in bytes. */
const KEPT = 16 * 1024 * 1024;
/** of an error's text, in bytes */
const ERROR_TAIL = 4096;

export type VmExecOptions = {
  /** all of the command's environment; default: the agent's own */
  readonly env?: Readonly<Record<string, string>>;
  /** standard input, as far as the command reads it; default: empty */
  readonly input?: Uint8Array | string | Readable;
  /** an exit code other than 0 is an error; default false */
  readonly check?: boolean;
  /** milliseconds, after which the command is killed; default: none */
  readonly timeout?: number;
  /** milliseconds that the guest may take until its agent answers; default a minute, and not more than `timeout` */
  readonly wait?: number;
  /** kills the command */
  readonly signal?: AbortSignal;
  /** the command gets a terminal of this kind and size; its standard error is that, too */
  readonly terminal?: { readonly name: string; readonly columns: number; readonly rows: number };
};

/** A piece of what a command says, as soon as it says it. */
export type VmExecChunk = ExecChunk & {
  /** the same as text, in UTF-8; characters are whole: bytes of one that is cut come with the next piece */
  readonly text: string;
};

/** What a command in a VM has come to. */
export type VmExecResult = ExecEnd & {
  /** all that it said, or the first 16 MiB of it; empty where it was iterated over */
  readonly stdout: string;
  readonly stderr: string;
  /** whether it said more than that */
  readonly truncated: boolean;
};

/** A command in a VM has ended with another exit code than 0, and that was not to be. */
export class VmExecError extends Error {
  override readonly name = 'VmExecError';
  readonly code = 'EEXEC';
  readonly result: VmExecResult;

  constructor(command: string, result: VmExecResult, said = result.stderr) {
    const { exitCode, signal } = result;
    const how = exitCode === undefined ? `was ended by signal ${signal}` : `ended with exit code ${exitCode}`;
    super(`${command} ${how}${said === '' ? '' : `: ${said.trimEnd()}`}`);
    this.result = result;
  }
}

/**
 * A command in a VM, which runs from when this is made. Awaited it gives all that the command said; iterated over,
 * each piece as it comes, and who leaves the loop ends the command. It may be awaited after that, too.
 */
export class VmExec implements PromiseLike<VmExecResult>, AsyncIterable<VmExecChunk> {
  readonly #words: string;
  readonly #check: boolean;
  readonly #output: AsyncGenerator<ExecChunk, ExecEnd>;
  readonly #first: Promise<IteratorResult<ExecChunk, ExecEnd>>;
  #result: Promise<VmExecResult> | undefined;

  /** @param connect to the VM */
  constructor(
    connect: () => VmConnection,
    command: string,
    args: readonly string[] = [],
    options: VmExecOptions = {},
  ) {
    this.#words = [command, ...args].join(' ');
    this.#check = options.check ?? false;
    this.#output = run(connect, command, args, options);
    // Without this it would begin when somebody asks.
    this.#first = this.#output.next();
    this.#first.catch(() => undefined);
  }

  then<A = VmExecResult, B = never>(
    resolve?: ((result: VmExecResult) => A | PromiseLike<A>) | null,
    reject?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#result ??= this.#collect();
    return this.#result.then(resolve, reject);
  }

  /** @throws Error where it was awaited or iterated over before */
  [Symbol.asyncIterator](): AsyncIterator<VmExecChunk> {
    if (this.#result !== undefined) throw new Error('the output of this command has been taken already');
    const { promise, resolve, reject } = deferred<VmExecResult>();
    promise.catch(() => undefined);
    this.#result = promise;
    return this.#iterate(resolve, reject);
  }

  async *#iterate(
    resolve: (result: VmExecResult) => void,
    reject: (error: unknown) => void,
  ): AsyncGenerator<VmExecChunk> {
    const decoders = { stdout: new StringDecoder('utf8'), stderr: new StringDecoder('utf8') };
    let tail = '';
    let ended = false;
    try {
      let next = await this.#first;
      while (next.done !== true) {
        const { stream, bytes } = next.value;
        const text = decoders[stream].write(bytes);
        if (stream === 'stderr') tail = (tail + text).slice(-ERROR_TAIL);
        yield { stream, bytes, text };
        next = await this.#output.next();
      }
      ended = true;
      resolve(this.#checked({ ...next.value, stdout: '', stderr: '', truncated: false }, tail));
    } catch (error) {
      ended = true;
      reject(error);
      throw error;
    } finally {
      if (!ended) {
        await this.#output.return({ exitCode: undefined, signal: undefined });
        reject(new ControlError('EABANDONED', `nobody wanted the rest of ${this.#words}: it was killed`));
      }
    }
    await this.#result;
  }

  async #collect(): Promise<VmExecResult> {
    const kept = { stdout: new Kept(), stderr: new Kept() };
    let next = await this.#first;
    while (next.done !== true) {
      kept[next.value.stream].add(next.value.bytes);
      next = await this.#output.next();
    }
    return this.#checked({
      ...next.value,
      stdout: kept.stdout.text(),
      stderr: kept.stderr.text(),
      truncated: kept.stdout.truncated || kept.stderr.truncated,
    });
  }

  #checked(result: VmExecResult, said = result.stderr.slice(-ERROR_TAIL)): VmExecResult {
    if (this.#check && result.exitCode !== 0) throw new VmExecError(this.#words, result, said);
    return result;
  }
}

class Kept {
  truncated = false;
  readonly #chunks: Buffer[] = [];
  #left = KEPT;

  add(bytes: Buffer): void {
    const fitting = bytes.subarray(0, this.#left);
    if (fitting.length < bytes.length) this.truncated = true;
    this.#left -= fitting.length;
    if (fitting.length > 0) this.#chunks.push(fitting);
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}

/** Begins the command, gives what it says, and returns how it ended. */
async function* run(
  connect: () => VmConnection,
  command: string,
  args: readonly string[],
  { env, input, timeout, signal, terminal, wait = AGENT_TIMEOUT }: VmExecOptions,
): AsyncGenerator<ExecChunk, ExecEnd> {
  signal?.throwIfAborted();
  using connection = connect();
  const { control } = connection;
  await control.waitForAgent(Math.min(timeout ?? wait, wait), signal);
  const request = {
    command,
    args: [...args],
    ...(env !== undefined && { env }),
    ...(timeout !== undefined && { timeout }),
  };
  const stream = await control.stream({
    ...request,
    stdin: input !== undefined,
    ...(terminal !== undefined && { terminal }),
  });
  const destroy = (): void => stream.destroy();
  signal?.addEventListener('abort', destroy, { once: true });
  const feeding = input === undefined ? undefined : feed(stream, input);
  try {
    signal?.throwIfAborted();
    yield* stream;
    return await stream.ended;
  } catch (error) {
    signal?.throwIfAborted();
    feeding?.throwIfFailed();
    // Without a stream for it, the agent itself can keep the output until the end.
    const isPlain = terminal === undefined && (input === undefined || isBytes(input));
    if (!(error instanceof ControlError) || error.code !== 'EBUSY' || !isPlain) throw error;
    const bytes = input === undefined ? undefined : Buffer.from(input);
    const answer = await control.exec(
      { ...request, ...(bytes !== undefined && { input: bytes.toString('base64') }) },
      signal,
    );
    for (const each of ['stdout', 'stderr'] as const) {
      const said = Buffer.from(answer[each], 'base64');
      if (said.length > 0) yield { stream: each, bytes: said };
    }
    return { exitCode: answer.exitCode ?? undefined, signal: answer.signal ?? undefined };
  } finally {
    signal?.removeEventListener('abort', destroy);
    feeding?.end();
    stream.destroy();
  }
}

const isBytes = (input: Uint8Array | string | Readable): input is Uint8Array | string =>
  typeof input === 'string' || input instanceof Uint8Array;

/** Gives a command its input. */
function feed(
  stream: ExecStream,
  input: Uint8Array | string | Readable,
): { readonly throwIfFailed: () => void; readonly end: () => void } | undefined {
  const { stdin } = stream;
  if (isBytes(input)) {
    stdin.end(input);
    return undefined;
  }
  let failure: Error | undefined;
  const fail = (error: Error): void => {
    failure = error;
    stream.destroy();
  };
  input.on('error', fail);
  input.pipe(stdin);
  return {
    throwIfFailed: () => {
      if (failure !== undefined) throw failure;
    },
    // What the command has not read stays where it is, for others.
    end: () => {
      input.unpipe(stdin);
      input.off('error', fail);
      input.pause();
    },
  };
}

function deferred<T>(): {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
} {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
