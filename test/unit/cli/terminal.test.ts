import { describe, expect, it } from 'vitest';

import { bundle } from './support/bundle.ts';
import { haveScript, PseudoTerminal } from './support/pseudo-terminal.ts';

const PROGRAM = bundle('session-program.ts');

describe.skipIf(!haveScript)('a real terminal', () => {
  /** Ends a session in some way and expects its status, and the terminal as it was. */
  async function expectRestored(
    status: number,
    end: (terminal: PseudoTerminal, pid: number) => void,
  ): Promise<string> {
    using terminal = new PseudoTerminal(PROGRAM);
    const pid = await terminal.ready();
    const raw = terminal.settings(pid);
    expect(raw).toMatch(/-isig -icanon/);
    expect(raw).toMatch(/ -echo /);
    end(terminal, pid);
    const ended = await terminal.ended();
    expect(ended.after).toBe(ended.before);
    expect(ended.before).toMatch(/rows 33; columns 101;/);
    expect(ended.status).toBe(status);
    return terminal.output;
  }

  it('has its settings back after a power-off', () =>
    expectRestored(0, (terminal) => terminal.type('power')));

  it('has its settings back after a crash of the guest', async () => {
    expect(await expectRestored(3, (terminal) => terminal.type('panic'))).toContain(
      'tsvm: the guest panicked',
    );
  });

  it('has its settings back after Ctrl-] q', () => expectRestored(130, (terminal) => terminal.type('\x1dq')));

  it('has its settings back after an uncaught error', async () => {
    expect(await expectRestored(1, (terminal) => terminal.type('throw'))).toContain('a fault in tsvm');
  });

  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
    ['SIGHUP', 129],
    ['SIGQUIT', 131],
  ] as const)('has its settings back after %s', async (signal, status) => {
    await expectRestored(status, (_, pid) => process.kill(pid, signal));
  });

  it('has its settings back after a time limit', async () => {
    using terminal = new PseudoTerminal(PROGRAM, '$PROGRAM 0.3');
    const ended = await terminal.ended();
    expect(ended.after).toBe(ended.before);
    expect(ended.status).toBe(124);
    expect(terminal.output).toMatch(/run timed out on vmlinuz[^]*last lines:\r\nREADY/);
  });

  it('has its settings back while the process is stopped, and is raw again when it goes on', async () => {
    using terminal = new PseudoTerminal(PROGRAM);
    const pid = await terminal.ready();
    process.kill(pid, 'SIGTSTP');
    await terminal.state(pid, 'T');
    const stopped = terminal.settings(pid);
    process.kill(pid, 'SIGCONT');
    terminal.type('a');
    await terminal.shows(/READY \d+\s+a/);
    expect(terminal.settings(pid)).toMatch(/-isig -icanon/);
    terminal.type('power');
    const ended = await terminal.ended();
    expect(stopped).toBe(ended.before);
    expect(ended.after).toBe(ended.before);
  });

  it('is raw again after the shell has set it back under a stopped process', async () => {
    using terminal = new PseudoTerminal(PROGRAM);
    const pid = await terminal.ready();
    process.kill(pid, 'SIGSTOP');
    await terminal.state(pid, 'T');
    terminal.stty(pid, 'sane');
    process.kill(pid, 'SIGCONT');
    terminal.type('a');
    await terminal.shows(/READY \d+\s+a/);
    expect(terminal.settings(pid)).toMatch(/-isig -icanon/);
    terminal.type('power');
    expect((await terminal.ended()).after).not.toMatch(/-icanon/);
  });

  it('gives control characters and UTF-8 to the guest as they are', async () => {
    using terminal = new PseudoTerminal(PROGRAM);
    await terminal.ready();
    terminal.type('\x03\x1a\x1c\x13\x11grün 🐧power');
    const { status } = await terminal.ended();
    expect(status).toBe(0);
    expect(terminal.output).toContain('\x03\x1a\x1c\x13\x11grün 🐧power');
  });

  it('types its own size with Ctrl-] s', async () => {
    using terminal = new PseudoTerminal(PROGRAM);
    await terminal.ready();
    terminal.type('\x1ds');
    await terminal.shows(/stty rows 33 cols 101/);
    terminal.type('power');
    await terminal.ended();
  });

  it('has its settings back where the reader of a pipe is gone', async () => {
    using terminal = new PseudoTerminal(PROGRAM, '{ $PROGRAM; echo $? > inner; } | head -c 8');
    await terminal.shows(/READY/);
    terminal.type('more');
    const ended = await terminal.ended();
    expect(ended.after).toBe(ended.before);
    expect(terminal.file('inner').trim()).toBe('141');
  });
});
