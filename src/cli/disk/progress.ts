/** How far a long command has come: a bar on standard error, where that is a terminal. */

import { endedBySignals } from './options.ts';

type Terminal = { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown };

const WIDTH = 30;
/** milliseconds */
const SHOWN_AFTER = 300;
const BETWEEN = 100;

class ProgressBar implements Disposable {
  readonly #label: string;
  readonly #terminal: Terminal;
  #next = performance.now() + SHOWN_AFTER;
  #shown = '';

  constructor(label: string, terminal: Terminal = process.stderr) {
    this.#label = label;
    this.#terminal = terminal;
  }

  /** Takes the share that is done, from 0 to 1. Nothing is shown of what ends soon. */
  readonly tell = (share: number): void => {
    const now = performance.now();
    if (this.#terminal.isTTY !== true || now < this.#next) return;
    this.#next = now + BETWEEN;
    const done = Math.min(1, Math.max(0, share));
    const bar = '#'.repeat(Math.floor(done * WIDTH)).padEnd(WIDTH, '.');
    const line = `${this.#label} [${bar}] ${Math.floor(done * 100)}%`.slice(
      0,
      (this.#terminal.columns ?? 80) - 1,
    );
    if (line === this.#shown) return;
    this.#shown = line;
    this.#terminal.write(`\r${line}`);
  };

  /** Takes the bar away. */
  [Symbol.dispose](): void {
    if (this.#shown === '') return;
    this.#terminal.write(`\r${' '.repeat(this.#shown.length)}\r`);
    this.#shown = '';
  }
}

/** Does something long, with a bar, that a signal may end. */
export async function whileShown<T>(
  label: string,
  work: (tell: (share: number) => void) => Promise<T>,
): Promise<T> {
  using bar = new ProgressBar(label);
  return await endedBySignals(() => work(bar.tell));
}
