/** What a command waits for, on standard error: one line that changes on a terminal, else a line for each that lasts. */

type Terminal = { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown };

/** What is over sooner is not told, in milliseconds. */
const SHOWN_AFTER = 1000;

export class ProgressLine implements Disposable {
  readonly #terminal: Terminal;
  #timer: NodeJS.Timeout | undefined;
  #shown = 0;

  constructor(terminal: Terminal = process.stderr) {
    this.#terminal = terminal;
  }

  /** Takes what is waited for from now on. */
  say(what: string): void {
    this.#clear();
    this.#timer = setTimeout(() => {
      const line = `tsvm: ${what} …`;
      if (this.#terminal.isTTY === true) {
        const text = line.slice(0, (this.#terminal.columns ?? 80) - 1);
        this.#shown = text.length;
        this.#terminal.write(`\r${text}`);
      } else this.#terminal.write(`${line}\n`);
    }, SHOWN_AFTER);
  }

  [Symbol.dispose](): void {
    this.#clear();
  }

  #clear(): void {
    clearTimeout(this.#timer);
    if (this.#shown > 0) this.#terminal.write(`\r${' '.repeat(this.#shown)}\r`);
    this.#shown = 0;
  }
}
