import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';

import { onTestFinished } from 'vitest';

export type Ended = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs a Node.js program to its end. */
export function runProgram(program: string, args: readonly string[], cwd: string): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    cwd,
    encoding: 'utf8',
    timeout: 25_000,
  });
  return { code: status, stdout, stderr };
}

/** A program that goes on while the test does. */
export class Background {
  readonly process: ChildProcess;
  output = '';

  /** It is gone when the test ends, however that is. */
  constructor(command: string, args: readonly string[], cwd: string) {
    this.process = spawn(command, args, { cwd, stdio: ['pipe', 'pipe', 'pipe'] });
    this.process.stdout!.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.process.stderr!.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    onTestFinished(() => void this.process.kill('SIGKILL'));
  }

  get pid(): number {
    return this.process.pid!;
  }

  /** Waits until its output matches. */
  async shows(pattern: RegExp): Promise<string> {
    const deadline = Date.now() + 20_000;
    while (!pattern.test(this.output)) {
      if (Date.now() > deadline || this.process.exitCode !== null)
        throw new Error(`no ${String(pattern)} in: ${this.output}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return this.output;
  }

  say(line: string): void {
    this.process.stdin!.write(`${line}\n`);
  }

  async ends(): Promise<void> {
    this.process.stdin!.end();
    if (this.process.exitCode === null) await once(this.process, 'close');
  }
}
