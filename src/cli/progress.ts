/** How far a long command has come: a bar on standard error, where that is a terminal. */

import { endedBySignals } from './signals.ts';

type Terminal = { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown };

const WIDTH = 30;
/** milliseconds */
const SHOWN_AFTER = 300;
const LINES_AFTER = 1000;
const BETWEEN = 100;
const BETWEEN_LINES = 10_000;

class ProgressBar implements Disposable {
  readonly #label: string;
  readonly #lines: boolean;
  readonly #terminal: Terminal;
  #next: number;
  #shown = '';

  /** @param lines whether there are lines where there is no terminal */
  constructor(label: string, lines: boolean, terminal: Terminal = process.stderr) {
    this.#label = label;
    this.#lines = lines;
    this.#terminal = terminal;
    this.#next = performance.now() + (terminal.isTTY === true ? SHOWN_AFTER : LINES_AFTER);
  }

  /**
   * Takes the share that is done, from 0 to 1, or undefined where nobody knows; and what there is to add to it. Nothing
   * is shown of what ends soon.
   */
  readonly tell = (share: number | undefined, detail = ''): void => {
    const now = performance.now();
    const isTerminal = this.#terminal.isTTY === true;
    if (now < this.#next || (!isTerminal && !this.#lines)) return;
    this.#next = now + (isTerminal ? BETWEEN : BETWEEN_LINES);
    const done = share === undefined ? 0 : Math.min(1, Math.max(0, share));
    const percent = share === undefined ? '' : ` ${Math.floor(done * 100)}%`;
    const more = detail === '' ? '' : ` ${detail}`;
    if (!isTerminal) {
      this.#terminal.write(`${this.#label}:${percent}${more}\n`);
      return;
    }
    const bar = '#'.repeat(Math.floor(done * WIDTH)).padEnd(WIDTH, '.');
    const line = `${this.#label} [${bar}]${percent}${more}`.slice(0, (this.#terminal.columns ?? 80) - 1);
    if (line === this.#shown) return;
    // What was longer is wiped out.
    this.#terminal.write(`\r${line.padEnd(this.#shown.length)}`);
    this.#shown = line;
  };

  /** Takes the bar away. */
  [Symbol.dispose](): void {
    if (this.#shown === '') return;
    this.#terminal.write(`\r${' '.repeat(this.#shown.length)}\r`);
    this.#shown = '';
  }
}

/** Takes how far something is: see {@link ProgressBar.tell}. */
export type Tell = (share: number | undefined, detail?: string) => void;

/**
 * Does something long, with a bar, that a signal may end.
 * @param lines whether there are lines instead of a bar where standard error is no terminal. Default false
 */
export async function whileShown<T>(
  label: string,
  work: (tell: Tell) => Promise<T>,
  lines = false,
): Promise<T> {
  using bar = new ProgressBar(label, lines);
  return await endedBySignals(() => work(bar.tell));
}
