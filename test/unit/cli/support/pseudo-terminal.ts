import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Whether script(1) is there: bsdutils in Debian, util-linux elsewhere. */
export const haveScript = existsSync('/usr/bin/script');

/**
 * The session program in a pseudo terminal that script(1) makes, under a shell that notes the terminal's settings
 * before and after it.
 */
export class PseudoTerminal implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'tsvm-terminal-'));
  readonly #script: ChildProcessWithoutNullStreams;
  readonly #exited: Promise<unknown>;
  output = '';

  /** `shell` is run around the bundled program, which it names `$PROGRAM`. */
  constructor(program: string, shell = '$PROGRAM') {
    const commands = [
      'stty rows 33 cols 101',
      'stty -a > before',
      `PROGRAM="${process.execPath} ${program}"`,
      shell,
      'echo $? > status',
      'stty -a > after',
    ];
    this.#script = spawn('script', ['-qec', commands.join('\n'), '/dev/null'], {
      cwd: this.#folder,
      env: { ...process.env, SHELL: '/bin/sh' },
    });
    this.#script.stdout.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.#exited = new Promise((resolve) => this.#script.on('close', resolve));
  }

  type(text: string): void {
    this.#script.stdin.write(text);
  }

  /** Waits until the output matches. */
  async shows(pattern: RegExp): Promise<RegExpExecArray> {
    const deadline = Date.now() + 15_000;
    for (;;) {
      const match = pattern.exec(this.output);
      if (match !== null) return match;
      if (Date.now() > deadline) throw new Error(`no ${String(pattern)} in: ${this.output}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Waits for the program; returns its process id. */
  async ready(): Promise<number> {
    return Number((await this.shows(/READY (\d+)/))[1]);
  }

  /** Waits for the end of it all. */
  async ended(): Promise<{ status: number; before: string; after: string }> {
    await this.#exited;
    return { status: Number(this.file('status')), before: this.file('before'), after: this.file('after') };
  }

  file(name: string): string {
    return readFileSync(join(this.#folder, name), 'utf8');
  }

  /** The settings at this moment of the terminal that is standard input of the process `pid`. */
  settings(pid: number): string {
    return this.stty(pid, '-a');
  }

  /** Calls stty for the terminal that is standard input of the process `pid`. */
  stty(pid: number, setting: string): string {
    const terminal = readlinkSync(`/proc/${pid}/fd/0`);
    return execFileSync('stty', [setting, '-F', terminal], { encoding: 'utf8' });
  }

  /** Waits until the process `pid` is in a state of proc(5), such as T for stopped. */
  async state(pid: number, letter: string): Promise<void> {
    for (;;) {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      if (stat.slice(stat.lastIndexOf(')') + 2).startsWith(letter)) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  [Symbol.dispose](): void {
    this.#script.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
