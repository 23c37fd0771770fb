import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';

import { afterEach, describe, expect, it } from 'vitest';

import { bundle } from './support/bundle.ts';

const PROGRAM = bundle('session-program.ts');

let child: ChildProcessWithoutNullStreams;

function start(): ChildProcessWithoutNullStreams {
  child = spawn(process.execPath, [PROGRAM]);
  return child;
}

function exitStatus(): Promise<number | null> {
  return new Promise((resolve) => child.once('exit', resolve));
}

function residentMib(): number {
  const status = readFileSync(`/proc/${child.pid ?? 0}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
}

/** Waits until the stream has said `pattern`. */
function said(stream: NodeJS.ReadableStream, pattern: RegExp): Promise<string> {
  return new Promise((resolve) => {
    let all = '';
    stream.on('data', (chunk: Buffer) => {
      all += chunk.toString();
      if (pattern.test(all)) resolve(all);
    });
  });
}

describe('the session on pipes', () => {
  afterEach(() => child.kill('SIGKILL'));

  it('takes input that is there before the guest, and goes on after its end', async () => {
    const { stdin, stdout } = start();
    stdin.end('typed ahead');
    // The echo and the guest's own output come in either order.
    await said(stdout, /typed ahead[^]*READY|READY[^]*typed ahead/);
    const status = exitStatus();
    child.kill('SIGTERM');
    expect(await status).toBe(143);
  });

  it('loses nothing of a large input', async () => {
    const { stdin, stdout } = start();
    const status = exitStatus();
    const input = Array.from({ length: 60_000 }, (_, i) => `line ${i}\n`).join('') + 'power';
    const output = text(stdout);
    stdin.end(input);
    expect(await status).toBe(0);
    expect((await output).replace(/READY \d+\r\n/, '')).toBe(input);
  });

  it('keeps answering where the reader stalls, and keeps little', async () => {
    const { stdin, stderr } = start();
    stdin.write('flood');
    const notices = await said(stderr, /DONE/);
    expect(notices).toBe('tsvm: standard output is not read: console output is being dropped\nDONE\n');
    // Node itself takes some 60 MiB, and 800 MiB were said.
    expect(residentMib()).toBeLessThan(200);
    const status = exitStatus();
    child.kill('SIGTERM');
    expect(await status).toBe(143);
  });

  it('ends where the reader is gone', async () => {
    const { stdin, stdout, stderr } = start();
    const errors = text(stderr);
    await said(stdout, /READY/);
    const status = exitStatus();
    stdout.destroy();
    stdin.write('anybody there?');
    expect(await status).toBe(141);
    expect(await errors).toBe('');
  });
});
