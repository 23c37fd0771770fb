import { closeSync } from 'node:fs';
import { FILE, FILE_DATA, type FileCall, type FileCalls } from '../../kvm/file-calls.ts';

/** So many are closed at a time, or those that there are after so many milliseconds. */
const BATCH = 64;
const DELAY_MS = 20;
const MOST = FILE_DATA / 4;

/**
 * Descriptors that nobody needs any more. The last one of a file that has no name frees all its blocks, which may take
 * long: a thread closes them, several at a time.
 */
export class Discarded {
  readonly #call: FileCall;
  readonly #calls: FileCalls;
  #waiting: number[] = [];
  #closing = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param call for it alone */
  constructor(call: FileCall, calls: FileCalls) {
    this.#call = call;
    this.#calls = calls;
  }

  /** descriptors that are open still */
  get count(): number {
    return this.#waiting.length + this.#closing;
  }

  add(fd: number): void {
    this.#waiting.push(fd);
  }

  /** Has them closed, now or soon. */
  flush(): void {
    if (this.#waiting.length === 0 || this.#closing > 0) return;
    if (this.#waiting.length >= BATCH) this.#start();
    else this.#timer ??= setTimeout(() => this.#start(), DELAY_MS).unref();
  }

  /** The call is over. */
  done(): void {
    this.#closing = 0;
    this.flush();
  }

  /** Closes the rest at once. The threads have ended. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const fd of this.#waiting.splice(0)) closeSync(fd);
  }

  #start(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#closing > 0 || this.#waiting.length === 0) return;
    const some = this.#waiting.splice(0, MOST);
    this.#closing = some.length;
    const words = new Int32Array(this.#call.dataWords.buffer, this.#call.dataWords.byteOffset, some.length);
    words.set(some);
    this.#call.prepare(FILE.close, -1);
    this.#call.name(0, 4 * some.length);
    this.#calls.start(this.#call);
  }
}
