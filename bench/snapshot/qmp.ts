import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const CONNECT_LIMIT_MS = 30_000;
const POLL_MS = 1;

type Reply = { readonly return?: unknown; readonly error?: { readonly desc: string } };

/** QEMU's monitor (docs/interop/qmp-spec), one command after the other. */
export class Qmp implements Disposable {
  readonly #socket: Socket;
  #buffer = '';
  #waiting: ((reply: Reply) => void)[] = [];

  /** @param path of its socket, which need not be there yet */
  static async open(path: string): Promise<Qmp> {
    for (const end = performance.now() + CONNECT_LIMIT_MS; ; await sleep(10)) {
      const socket = connect(path);
      const error = await new Promise<Error | undefined>((resolve) => {
        socket.once('connect', () => resolve(undefined));
        socket.once('error', resolve);
      });
      if (error === undefined) {
        const qmp = new Qmp(socket);
        await qmp.do('qmp_capabilities');
        return qmp;
      }
      if (performance.now() > end) throw error;
    }
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.on('data', (data) => this.#take(data.toString()));
    socket.on('close', () => {
      for (const answer of this.#waiting.splice(0)) answer({ error: { desc: 'QEMU has gone' } });
    });
  }

  /** @throws Error with what QEMU says */
  async do(execute: string, args: object = {}): Promise<unknown> {
    const reply = new Promise<Reply>((resolve) => this.#waiting.push(resolve));
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const { error, return: result } = await reply;
    if (error !== undefined) throw new Error(`${execute}: ${error.desc}`);
    return result;
  }

  /** Writes the machine into a file. Resolves, once that is done, with what QEMU tells of it. */
  async migrate(path: string): Promise<{ downtime?: number; ram?: { transferred: number } }> {
    await this.do('migrate', { uri: `exec:cat > '${path}'` });
    for (;;) {
      const state = (await this.do('query-migrate')) as {
        status: string;
        'error-desc'?: string;
        downtime?: number;
        ram?: { transferred: number };
      };
      if (state.status === 'completed') return state;
      if (state.status === 'failed') throw new Error(`migrate: ${state['error-desc'] ?? 'failed'}`);
      await sleep(POLL_MS);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#buffer += text;
    const lines = this.#buffer.split('\n');
    this.#buffer = lines.pop() ?? '';
    for (const line of lines) {
      const message = JSON.parse(line) as Reply;
      // The greeting and events are no answers.
      if ('return' in message || 'error' in message) this.#waiting.shift()?.(message);
    }
  }
}
