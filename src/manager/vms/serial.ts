import { connect, type Socket } from 'node:net';
import { StringDecoder } from 'node:string_decoder';
import { VmConnection } from './lifecycle.ts';
import type { VmStore } from './store.ts';
import { WaitError, type WaitOptions } from './wait.ts';

const DEFAULT_TIMEOUT = 60_000;
/** of what the console has said and nobody has asked for yet, in characters; the oldest goes first */
const KEPT = 1024 * 1024;
const TAIL_LINES = 20;

/** A running VM's console, as a dialogue: what is expected is taken out of what was said. */
export class VmSerial {
  readonly #store: VmStore;
  readonly #name: string;
  #session: Session | undefined;

  constructor(store: VmStore, name: string) {
    this.#store = store;
    this.#name = name;
  }

  /**
   * Waits until the console says something, in what came after the last match; at first, after the last 64 KiB.
   * @throws WaitError with the end of the console; VmStoreError (ESTOPPED); the signal's reason
   */
  async expect(pattern: string | RegExp, options: WaitOptions = {}): Promise<RegExpExecArray> {
    const { timeout = DEFAULT_TIMEOUT, signal } = options;
    const wanted =
      typeof pattern === 'string'
        ? new RegExp(pattern.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
        : new RegExp(pattern.source, pattern.flags.replaceAll(/[gy]/g, ''));
    const session = this.#open();
    const end = performance.now() + timeout;
    for (;;) {
      signal?.throwIfAborted();
      const match = wanted.exec(session.text);
      if (match !== null) {
        session.text = session.text.slice(match.index + match[0].length);
        return match;
      }
      const left = end - performance.now();
      if (session.ended || left <= 0) {
        const why = session.ended ? 'and it has ended' : `not within ${timeout / 1000} s`;
        const tail = session.text.trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
        throw new WaitError(
          session.ended ? 'EWAITENDED' : 'EWAITTIMEOUT',
          `the console of '${this.#name}' has not said ${JSON.stringify(String(pattern))}, ${why}${tail === '' ? '' : `; it said:\n${tail}`}`,
        );
      }
      await session.changed(left, signal);
    }
  }

  /** Types at the console. @throws VmStoreError (ESTOPPED) */
  async send(text: string): Promise<void> {
    await this.#open().write(text);
  }

  /** Lets go of the console. May be called again. */
  close(): void {
    this.#session?.close();
    this.#session = undefined;
  }

  #open(): Session {
    // Of a VM that was started again there is a new one.
    if (this.#session?.ended === true && this.#session.text === '') this.close();
    return (this.#session ??= new Session(this.#store, this.#name));
  }
}

class Session {
  text = '';
  ended = false;
  readonly #connection: VmConnection;
  readonly #socket: Socket;
  #listeners: (() => void)[] = [];

  constructor(store: VmStore, name: string) {
    this.#connection = new VmConnection(store, name);
    this.#socket = connect(this.#connection.consolePath);
    const decoder = new StringDecoder('utf8');
    this.#socket.on('data', (data: Buffer) => {
      this.text = (this.text + decoder.write(data)).slice(-KEPT);
      this.#tell();
    });
    this.#socket.on('error', () => undefined);
    this.#socket.on('close', () => {
      this.ended = true;
      this.#tell();
    });
    // Whoever waits keeps the process alive, and nothing else does.
    this.#socket.unref();
  }

  write(text: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(text, (error) => (error ? reject(error) : resolve()));
    });
  }

  changed(limit: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, limit);
      signal?.addEventListener('abort', done, { once: true });
      this.#listeners.push(done);
    });
  }

  close(): void {
    this.#socket.destroy();
    this.#connection.close();
  }

  #tell(): void {
    for (const listener of this.#listeners.splice(0)) listener();
  }
}
