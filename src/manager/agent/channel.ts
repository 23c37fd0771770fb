import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import * as v from 'valibot';
import { AgentCommandError, AgentConnectionError, AgentProtocolError, AgentTimeoutError } from './errors.ts';
import { MessageReader, SENTINEL, type RawMessage } from './message-reader.ts';
import { sleep } from '../sleep.ts';
import { reply } from './replies.ts';

/** `guest-exec` captures 16 MiB of each stream, `guest-file-read` gives up to 48 MiB; both as base64. */
const REPLY_LIMIT = 80 * 1024 * 1024;
const DEFAULT_TIMEOUT_MS = 10_000;
/** Waits between tries to be heard by an agent that may not be there yet, rising from the first to the last. */
const SYNC_FIRST_MS = 500;
const SYNC_LAST_MS = 5000;
/** How long one that has been heard of may be silent. */
const SYNC_ALIVE_MS = 30_000;
/** Waits between tries to connect where that fails, rising from the first to the last. */
const RECONNECT_FIRST_MS = 50;
const RECONNECT_LAST_MS = 1000;
const ABSENT = 'is qemu-guest-agent installed and running in the guest?';

export type AgentLimits = {
  /** in milliseconds, for one answer; default 10 s */
  readonly timeout?: number;
  readonly signal?: AbortSignal;
};

export type ChannelOptions = {
  /** largest answer in bytes; default 80 MiB, which none of the agent's exceeds */
  readonly replyLimit?: number;
};

type Waiter = { take(message: RawMessage): void; fail(error: Error): void };

/**
 * Requests to the agent and its answers, one after the other. Answers carry nothing that tells them from those to an
 * earlier client, so the first request of a connection, and each one after something went wrong, is preceded by
 * `guest-sync-delimited`: all that comes before its answer is left over from before.
 */
export class AgentChannel {
  readonly #target: string | Duplex;
  readonly #replyLimit: number;
  #stream: Duplex | undefined;
  #synced = false;
  #waiter: Waiter | undefined;
  /** why the stream has ended */
  #failure: Error | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** @param target path of a unix socket, connected to when needed and again when it was lost; or a stream */
  constructor(target: string | Duplex, options: ChannelOptions = {}) {
    this.#target = target;
    this.#replyLimit = options.replyLimit ?? REPLY_LIMIT;
  }

  /**
   * Carries a command out and returns what the agent answers, in the form of `schema`.
   * @throws AgentCommandError, AgentTimeoutError, AgentConnectionError, AgentProtocolError, the signal's reason
   */
  request<Schema extends v.GenericSchema>(
    command: string,
    args: Readonly<Record<string, unknown>>,
    schema: Schema,
    limits: AgentLimits = {},
  ): Promise<v.InferOutput<Schema>> {
    return this.#inTurn(limits, async (deadline) => {
      await this.#ready(deadline);
      const answer = await this.#ask(command, args, deadline);
      const result = v.safeParse(schema, answer);
      if (result.success) return result.output;
      const [issue] = result.issues;
      const where = v.getDotPath(issue);
      throw new AgentProtocolError(
        `the guest agent's answer to ${command} makes no sense${where === null ? '' : ` at ${where}`}: ${issue.message}`,
      );
    });
  }

  /**
   * Sends a command that has no answer where it succeeds, such as `guest-shutdown`. Resolves once `quiet`
   * milliseconds have passed without an error, or the connection has ended.
   * @throws as {@link request}
   */
  send(
    command: string,
    args: Readonly<Record<string, unknown>>,
    quiet: number,
    limits: AgentLimits = {},
  ): Promise<void> {
    return this.#inTurn(limits, async (deadline) => {
      await this.#ready(deadline);
      try {
        await this.#ask(command, args, new Deadline(quiet, limits.signal));
      } catch (error) {
        if (!(error instanceof AgentTimeoutError || error instanceof AgentConnectionError)) throw error;
      }
    });
  }

  /**
   * Waits until the agent answers, from before the guest is up on.
   * @throws AgentTimeoutError that says what is missing; the signal's reason
   */
  waitUntilReady(limits: AgentLimits = {}): Promise<void> {
    return this.#inTurn(limits, async (deadline) => {
      for (let wait = RECONNECT_FIRST_MS; ; wait = Math.min(2 * wait, RECONNECT_LAST_MS)) {
        try {
          await this.#ready(deadline);
          return;
        } catch (error) {
          const mayComeBack = typeof this.#target === 'string' && !this.#closed;
          if (!(error instanceof AgentConnectionError) || !mayComeBack) throw error;
          if (deadline.left === 0) throw new AgentTimeoutError('connection', deadline.timeout, error.message);
          const { signal } = deadline;
          await sleep(Math.min(wait, deadline.left), signal);
          signal?.throwIfAborted();
        }
      }
    });
  }

  /** Ends the connection; what is asked and waits to be asked is refused. */
  close(): void {
    this.#closed = true;
    this.#lost(new AgentConnectionError('the connection to the guest agent was closed'));
    if (typeof this.#target !== 'string') this.#target.destroy();
  }

  /** One request after the other; the time limit counts from where it is one's turn. */
  #inTurn<T>(limits: AgentLimits, work: (deadline: Deadline) => Promise<T>): Promise<T> {
    const run = async (): Promise<T> => {
      limits.signal?.throwIfAborted();
      return work(new Deadline(limits.timeout ?? DEFAULT_TIMEOUT_MS, limits.signal));
    };
    const done = this.#turn.then(run, run);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  /** Connected, and with nothing of earlier requests on its way. */
  async #ready(deadline: Deadline): Promise<void> {
    if (this.#closed) throw new AgentConnectionError('the connection to the guest agent was closed');
    if (this.#stream === undefined) await this.#connect(deadline);
    if (!this.#synced) await this.#synchronise(deadline);
  }

  async #connect(deadline: Deadline): Promise<void> {
    const target = this.#target;
    this.#synced = false;
    if (typeof target !== 'string') {
      if (this.#failure) throw this.#failure;
      if (target.destroyed) throw new AgentConnectionError('the stream to the guest agent has ended');
      this.#listen(target);
      return;
    }
    const socket = connect(target);
    try {
      await deadline.limit('connection', (resolve, reject) => {
        socket.once('connect', () => resolve(undefined));
        socket.once('error', reject);
      });
    } catch (error) {
      socket.destroy();
      throw isSystemError(error)
        ? new AgentConnectionError(connectHint(target, error), { cause: error })
        : error;
    }
    this.#listen(socket);
  }

  #listen(stream: Duplex): void {
    const reader = new MessageReader(this.#replyLimit, (message) => this.#waiter?.take(message));
    const lost = (error: Error): void => {
      if (this.#stream === stream) this.#lost(error);
    };
    this.#stream = stream;
    stream.on('data', (bytes: Buffer) => {
      if (!reader.feed(bytes)) {
        lost(new AgentProtocolError(`the guest agent answers with more than ${this.#replyLimit} bytes`));
      }
    });
    stream.on('error', (error) =>
      lost(
        new AgentConnectionError(`the connection to the guest agent failed: ${error.message}`, {
          cause: error,
        }),
      ),
    );
    const ended = (): void =>
      lost(
        new AgentConnectionError(
          'the connection to the guest agent has ended: its VM may be gone, or another client has it',
        ),
      );
    stream.on('end', ended);
    stream.on('close', ended);
  }

  #lost(error: Error): void {
    this.#failure = error;
    const stream = this.#stream;
    this.#stream = undefined;
    this.#synced = false;
    stream?.destroy();
    this.#waiter?.fail(error);
  }

  async #synchronise(deadline: Deadline): Promise<void> {
    const earlier = new Set<number>();
    const heard = new Set<number>();
    let id = this.#sendSync();
    for (let wait = SYNC_FIRST_MS; ; wait = Math.min(2 * wait, SYNC_LAST_MS)) {
      const before = heard.size;
      const patience = Math.min(before > 0 ? SYNC_ALIVE_MS : wait, deadline.left);
      try {
        await this.#wait<undefined>(
          'answer to guest-sync-delimited',
          new Deadline(patience, deadline.signal),
          (message, resolve) => {
            if (!message.delimited) return;
            const answer = v.safeParse(v.object({ return: v.number() }), parse(message.bytes));
            if (!answer.success) return;
            if (answer.output.return === id) resolve(undefined);
            // Nothing is resolved here: what is in the same piece would find nobody who waits for it.
            else if (earlier.has(answer.output.return)) heard.add(answer.output.return);
          },
        );
        this.#synced = true;
        return;
      } catch (error) {
        if (!(error instanceof AgentTimeoutError)) throw error;
        if (deadline.left <= 0) throw new AgentTimeoutError('sign of life', deadline.timeout, ABSENT);
        // It is there, and slow. The answers to the rest of the syncs, with an error for each sentinel, are still to come.
        if (heard.size > before) continue;
        earlier.add(id);
        id = this.#sendSync();
      }
    }
  }

  /** Asks for a sign of life; returns the number that it is to carry. */
  #sendSync(): number {
    const id = Math.floor(Math.random() * 2 ** 31);
    const line = JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } });
    // The sentinel ends whatever half of a request an earlier client has left in the agent's parser.
    this.#write(Buffer.concat([Buffer.of(SENTINEL), Buffer.from(`${line}\n`)]));
    return id;
  }

  async #ask(command: string, args: Readonly<Record<string, unknown>>, deadline: Deadline): Promise<unknown> {
    this.#synced = false;
    this.#write(Buffer.from(`${JSON.stringify({ execute: command, arguments: args })}\n`));
    const bytes = await this.#wait<Buffer>(`answer to ${command}`, deadline, (message, resolve) => {
      // Only syncs are answered with a sentinel, ones that were given up here.
      if (!message.delimited) resolve(message.bytes);
    });
    const frame = v.safeParse(reply, parse(bytes));
    if (!frame.success) {
      throw new AgentProtocolError(`the guest agent's answer to ${command} is no JSON of its protocol`);
    }
    this.#synced = true;
    if ('error' in frame.output) {
      const { class: errorClass, desc } = frame.output.error;
      throw new AgentCommandError(command, errorClass, desc);
    }
    return frame.output.return;
  }

  #write(bytes: Buffer): void {
    this.#stream?.write(bytes);
  }

  #wait<T>(
    what: string,
    deadline: Deadline,
    take: (message: RawMessage, resolve: (value: T) => void) => void,
  ): Promise<T> {
    if (this.#stream === undefined) {
      return Promise.reject(this.#failure ?? new AgentConnectionError('the guest agent is not connected'));
    }
    return deadline
      .limit<T>(what, (resolve, reject) => {
        this.#waiter = { take: (message) => take(message, resolve), fail: reject };
      })
      .finally(() => (this.#waiter = undefined));
  }
}

/** Time that several waits share. */
class Deadline {
  readonly timeout: number;
  readonly signal: AbortSignal | undefined;
  readonly #end: number;

  constructor(timeout: number, signal: AbortSignal | undefined) {
    this.timeout = timeout;
    this.signal = signal;
    this.#end = performance.now() + timeout;
  }

  /** in milliseconds, not below 0 */
  get left(): number {
    return Math.max(0, this.#end - performance.now());
  }

  /** @throws AgentTimeoutError once the time is over; the signal's reason */
  async limit<T>(
    what: string,
    start: (resolve: (value: T) => void, reject: (error: Error) => void) => void,
  ): Promise<T> {
    const { signal } = this;
    signal?.throwIfAborted();
    let timer: NodeJS.Timeout | undefined;
    let aborted: (() => void) | undefined;
    try {
      return await new Promise<T>((resolve, reject) => {
        timer = setTimeout(() => reject(new AgentTimeoutError(what, this.timeout)), this.left);
        aborted = () => {
          const reason: unknown = signal?.reason;
          reject(reason instanceof Error ? reason : new Error(String(reason)));
        };
        signal?.addEventListener('abort', aborted);
        start(resolve, reject);
      });
    } finally {
      clearTimeout(timer);
      if (aborted) signal?.removeEventListener('abort', aborted);
    }
  }
}

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error;
}

function connectHint(path: string, error: NodeJS.ErrnoException): string {
  const why: Readonly<Record<string, string>> = {
    ENOENT: 'it does not exist: is the VM running, with a port org.qemu.guest_agent.0 at this path?',
    ECONNREFUSED: 'nobody listens: the VM has ended without removing it',
    EACCES: 'permission denied: it belongs to another user',
  };
  return `cannot connect to the guest agent at '${path}': ${why[error.code ?? ''] ?? error.message}`;
}
