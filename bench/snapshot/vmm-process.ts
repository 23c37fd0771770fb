import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';

const LIMIT_MS = 120_000;
const TAIL = 2000;

/** A VMM whose standard input and output are the guest's console. */
export class VmmProcess implements AsyncDisposable {
  /** `performance.now()` before it was started */
  readonly startedAt = performance.now();
  readonly #name: string;
  readonly #child: ChildProcess;
  #output = '';
  #errors = '';
  #waiting: (() => void)[] = [];

  /** @param fds open files that it gets as descriptor 3 and on */
  constructor(
    name: string,
    command: readonly string[],
    env: Readonly<Record<string, string>>,
    fds: readonly number[] = [],
  ) {
    this.#name = name;
    const [file = '', ...args] = command;
    this.#child = spawn(file, args, {
      env: { ...process.env, ...env },
      stdio: ['pipe', 'pipe', 'pipe', ...fds],
    });
    this.#child.stdout!.on('data', (data: Buffer) => {
      this.#output += data.toString('latin1');
      this.#tell();
    });
    this.#child.stderr!.on('data', (data: Buffer) => {
      this.#errors += data.toString();
    });
    this.#child.stdin!.on('error', () => undefined);
    this.#child.on('exit', () => this.#tell());
  }

  /** Types at the guest. */
  type(text: string): void {
    this.#child.stdin!.write(text);
  }

  /** Resolves with what follows `text` in the output as far as it has come. @throws Error where it does not come */
  async said(text: string): Promise<string> {
    const end = performance.now() + LIMIT_MS;
    for (;;) {
      const at = this.#output.indexOf(text);
      if (at >= 0) return this.#output.slice(at + text.length);
      const left = end - performance.now();
      if (left <= 0 || this.#child.exitCode !== null || this.#child.signalCode !== null)
        throw new Error(
          `${this.#name} did not say '${text}':\n${this.#output.slice(-TAIL)}\n${this.#errors}`,
        );
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** what it wrote on standard error, whole once it has ended */
  get errors(): string {
    return this.#errors;
  }

  /** Resolves once it has ended by itself, with all that it wrote. */
  async ended(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'close');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await gone;
  }

  #tell(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const each of waiting) each();
  }
}
