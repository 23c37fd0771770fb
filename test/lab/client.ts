import { createConnection, type Socket } from 'node:net';
import {
  CommandChannel,
  execOver,
  LabError,
  type Command,
  type ExecOptions,
  type ExecResult,
} from './commands.ts';
import { FRAME, type ReadyReport } from './protocol.ts';
import { socketAddress } from './server.ts';

/** How long the owner of level 1 may take to hand out the console's tail. */
const CONSOLE_TIMEOUT_MS = 2_000;

/** A level 1 that another process owns. */
export class LabClient {
  /** a directory that both the host and level 1 can write, by this path in both */
  readonly shared: string;
  readonly #socket: Socket;
  readonly #channel: CommandChannel;
  readonly #console: ConsoleReplies;

  /**
   * Waits until level 1 is up, which the owner sees to.
   * @throws LabError where it does not come up or nobody listens
   */
  static async connect(path: string): Promise<LabClient> {
    const socket = createConnection(socketAddress(path));
    const replies = new ConsoleReplies();
    const channel: CommandChannel = new CommandChannel(socket, (type, payload) => {
      if (type === FRAME.console) replies.take(payload.toString());
      else if (type === FRAME.failed) channel.lose(new LabError(payload.toString()));
    });
    socket.once('error', (error) => channel.lose(new LabError(`no lab at ${path}: ${error.message}`)));
    socket.once('close', () => channel.lose(new LabError('the owner of level 1 closed the connection')));
    const report = JSON.parse(await channel.ready) as ReadyReport;
    return new LabClient(socket, channel, replies, report.shared);
  }

  private constructor(socket: Socket, channel: CommandChannel, replies: ConsoleReplies, shared: string) {
    this.#socket = socket;
    this.#channel = channel;
    this.#console = replies;
    this.shared = shared;
  }

  /** As {@link Lab.exec}. */
  exec(command: Command, options: ExecOptions = {}): Promise<ExecResult> {
    return execOver(this.#channel, command, options, () => this.consoleTail());
  }

  /** As {@link Lab.consoleTail}; empty where the owner does not answer. */
  consoleTail(): Promise<string> {
    this.#channel.send(FRAME.console, 0);
    return this.#console.next();
  }

  /** Asks the owner to stop level 1; resolves when the connection is closed. */
  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#socket.once('close', resolve));
    this.#channel.send(FRAME.stop, 0);
    await closed;
  }

  /** Leaves; commands of this client that still run are killed. */
  close(): void {
    this.#socket.destroy();
  }
}

class ConsoleReplies {
  readonly #waiting: ((text: string) => void)[] = [];

  next(): Promise<string> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(''), CONSOLE_TIMEOUT_MS);
      this.#waiting.push((text) => {
        clearTimeout(timer);
        resolve(text);
      });
    });
  }

  take(text: string): void {
    this.#waiting.shift()?.(text);
  }
}
