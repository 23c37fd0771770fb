import { EventEmitter } from 'node:events';
import { PassThrough, Writable } from 'node:stream';

import { describe, expect, it } from 'vitest';

import { runSession, type SessionRequest } from '../../../src/cli/run-session.ts';
import type { RunningVm, VmExitReason } from '../../../src/vmm/types.ts';
import { EchoVm } from './support/echo-vm.ts';

/** A terminal's input: typing goes in, raw mode is noted. */
class Keyboard extends PassThrough {
  readonly isTTY = true;
  readonly modes: boolean[] = [];

  setRawMode(raw: boolean): this {
    this.modes.push(raw);
    return this;
  }
}

class Screen extends Writable {
  readonly isTTY: boolean;
  readonly rows = 24;
  columns = 80;
  text = '';

  constructor(isTTY = false) {
    super();
    this.isTTY = isTTY;
  }

  override _write(chunk: Buffer, _encoding: string, callback: () => void): void {
    this.text += chunk.toString();
    callback();
  }
}

type Options = {
  keyboard?: Keyboard;
  vm?: EchoVm;
  start?: () => Promise<RunningVm>;
  stdout?: Writable;
  request?: Partial<SessionRequest>;
  terminal?: boolean;
};

/** A session under way, and what it is held by. */
function begin(options: Options = {}) {
  const vm = options.vm ?? new EchoVm();
  const { keyboard } = options;
  const stdin = keyboard ?? new PassThrough();
  const stderr = new Screen(options.terminal);
  const screen = new Screen(options.terminal);
  const process = new EventEmitter();
  const stops: string[] = [];
  const code = runSession(
    {
      start: options.start ?? (() => Promise.resolve(vm)),
      options: { kernel: '/boot/vmlinuz' },
      ...options.request,
    },
    {
      stdin,
      stdout: options.stdout ?? screen,
      stderr,
      process,
      stopProcess: () => stops.push(`raw ${String(keyboard?.modes.at(-1))}`),
    },
  );
  return { vm, stdin, stdout: screen, stderr, process, code, stops };
}

async function soon(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

describe('the end of a session', () => {
  it.each([
    ['poweroff', 0, ''],
    ['reboot', 4, 'tsvm: told so\n'],
    ['triple-fault', 3, 'tsvm: told so\n'],
    ['panic', 3, 'tsvm: told so\n'],
    ['error', 3, 'tsvm: told so\n'],
  ] as [VmExitReason, number, string][])('%s has status %d', async (reason, code, text) => {
    const session = begin();
    await soon();
    session.vm.end({ reason, message: 'told so' });
    expect(await session.code).toBe(code);
    expect(session.stderr.text).toBe(text);
    expect(session.vm.calls).toEqual(['stop']);
  });

  it('prints the crash report', async () => {
    const session = begin();
    await soon();
    session.vm.end({ reason: 'error', message: 'KVM internal error', report: 'rip 0x1000\nrsp 0x2000\n' });
    await session.code;
    expect(session.stderr.text).toBe('tsvm: KVM internal error\nrip 0x1000\nrsp 0x2000\n');
  });

  it('prints the timings where asked for', async () => {
    const session = begin({ request: { timings: true } });
    await soon();
    session.vm.end({ reason: 'poweroff', message: '' });
    await session.code;
    expect(session.stderr.text).toBe('tsvm: kernel loaded after 12.3 ms, first run after 56.8 ms\n');
  });

  it('throws what the start throws, with nothing left behind', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard, start: () => Promise.reject(new Error('no kernel')) });
    await expect(session.code).rejects.toThrow('no kernel');
    expect(session.process.eventNames()).toEqual([]);
    expect(keyboard.modes).toEqual([]);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
    ['SIGQUIT', 131],
  ])('%s stops the VM, with status %d', async (signal, code) => {
    const session = begin();
    await soon();
    session.process.emit(signal);
    expect(await session.code).toBe(code);
    expect(session.vm.calls).toEqual(['stop']);
    expect(session.process.eventNames()).toEqual([]);
  });

  it('comes at a signal before the VM has started, and stops the VM that comes late', async () => {
    const vm = new EchoVm();
    let started: (vm: RunningVm) => void = () => undefined;
    const session = begin({ start: () => new Promise((resolve) => (started = resolve)) });
    session.process.emit('SIGTERM');
    expect(await session.code).toBe(143);
    started(vm);
    await soon();
    expect(vm.calls).toEqual(['stop']);
  });

  it('does not wait for a VM that does not stop at a second signal', async () => {
    const vm = new EchoVm();
    vm.neverStops = true;
    const session = begin({ vm });
    await soon();
    session.process.emit('SIGTERM');
    await soon();
    session.process.emit('SIGTERM');
    expect(await session.code).toBe(143);
  });
});

describe('a time limit', () => {
  it('ends the session with what was waited for and the last 40 lines', async () => {
    const vm = new EchoVm();
    const session = begin({ vm, request: { timeout: 0.05 } });
    await soon();
    vm.say(Array.from({ length: 50 }, (_, i) => `line ${i}`).join('\n'));
    expect(await session.code).toBe(124);
    const lines = session.stderr.text.trimEnd().split('\n');
    expect(lines[0]).toBe('tsvm: run timed out on /boot/vmlinuz: the guest did not power off within 0.05 s');
    expect(lines.slice(2)).toEqual(Array.from({ length: 40 }, (_, i) => `line ${i + 10}`));
    expect(vm.calls).toEqual(['stop']);
  });

  it('holds while the VM is starting too', async () => {
    const session = begin({ start: () => new Promise(() => undefined), request: { timeout: 0.05 } });
    expect(await session.code).toBe(124);
    expect(session.stderr.text).toContain('The kernel was still being loaded.');
  });

  it('says so where the console was silent', async () => {
    const session = begin({ request: { timeout: 0.01 } });
    expect(await session.code).toBe(124);
    expect(session.stderr.text).toContain('The console has said nothing.');
  });
});

describe('piped input', () => {
  it('reaches the guest complete, also when given before it listens', async () => {
    const vm = new EchoVm({ listening: false });
    const session = begin({ vm });
    const input = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7) & 0xff));
    session.stdin.end(input);
    await soon();
    vm.listen();
    while (Buffer.concat(vm.received).length < input.length) await soon();
    expect(Buffer.concat(vm.received).equals(input)).toBe(true);
    vm.end({ reason: 'poweroff', message: '' });
    expect(await session.code).toBe(0);
  });

  it('is read no faster than the guest takes it', async () => {
    const vm = new EchoVm({ listening: false });
    const session = begin({ vm });
    await soon();
    let accepted = 0;
    while (session.stdin.write(Buffer.alloc(4096))) accepted++;
    await soon();
    while (session.stdin.write(Buffer.alloc(4096)) && accepted < 1000) accepted++;
    expect(accepted).toBeLessThan(100);
    expect(vm.waitingBytes).toBeLessThanOrEqual(4096);
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('does not end the VM with its end', async () => {
    const session = begin();
    session.stdin.end('last words');
    await soon();
    session.vm.say('still here');
    await soon();
    expect(session.stdout.text).toBe('last wordsstill here');
    expect(session.vm.calls).toEqual([]);
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('has no escape key', async () => {
    const session = begin();
    await soon();
    session.stdin.write('\x1dq\x1dp');
    await soon();
    expect(session.vm.receivedText).toBe('\x1dq\x1dp');
    expect(session.vm.calls).toEqual([]);
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('that cannot be read is told, and the VM goes on', async () => {
    const session = begin();
    await soon();
    session.stdin.destroy(new Error('is a directory'));
    await soon();
    expect(session.stderr.text).toBe(
      'tsvm: read failed on standard input: is a directory; the guest gets no more input\n',
    );
    expect(session.vm.calls).toEqual([]);
    session.process.emit('SIGTERM');
    await session.code;
  });
});

describe('output', () => {
  it('begins with what the guest said before the session listened', async () => {
    const session = begin({ vm: new EchoVm({ output: 'Booting' }) });
    await soon();
    session.vm.say(' Linux\n');
    session.vm.end({ reason: 'poweroff', message: '' });
    await session.code;
    expect(session.stdout.text).toBe('Booting Linux\n');
  });

  it('whose reader is gone ends the VM with status 141', async () => {
    const stdout = new Writable({
      write(_chunk, _encoding, callback) {
        callback(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
      },
    });
    const session = begin({ stdout });
    await soon();
    session.vm.say('hello');
    expect(await session.code).toBe(141);
    expect(session.stderr.text).toBe('');
    expect(session.vm.calls).toEqual(['stop']);
  });

  it('that cannot be written ends the VM with status 1 and the reason', async () => {
    const stdout = new Writable({
      write(_chunk, _encoding, callback) {
        callback(Object.assign(new Error('no space left on device'), { code: 'ENOSPC' }));
      },
    });
    const session = begin({ stdout });
    await soon();
    session.vm.say('hello');
    expect(await session.code).toBe(1);
    expect(session.stderr.text).toBe('tsvm: write failed on standard output: no space left on device\n');
  });

  it('of a guest that has ended is waited for while its reader is slow', async () => {
    let take = (): void => undefined;
    const stdout = new Writable({
      write(_chunk, _encoding, callback) {
        take = callback;
      },
    });
    const session = begin({ stdout });
    await soon();
    session.vm.say('last words');
    session.vm.end({ reason: 'poweroff', message: '' });
    let ended = false;
    void session.code.then(() => (ended = true));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(ended).toBe(false);
    take();
    expect(await session.code).toBe(0);
  });

  it('of a guest that has ended is given up at a signal', async () => {
    const session = begin({ stdout: new Writable({ write: () => undefined }) });
    await soon();
    session.vm.say('last words');
    session.vm.end({ reason: 'poweroff', message: '' });
    await soon();
    session.process.emit('SIGINT');
    expect(await session.code).toBe(0);
  });

  it('to a stalled reader is dropped with one notice', async () => {
    const session = begin({ stdout: new Writable({ write: () => undefined }) });
    await soon();
    for (let i = 0; i < 100; i++) session.vm.say(Buffer.alloc(64 * 1024, 0x61));
    expect(session.stderr.text).toBe('tsvm: standard output is not read: console output is being dropped\n');
    session.process.emit('SIGTERM');
    expect(await session.code).toBe(143);
  });
});

describe('a terminal', () => {
  it('is raw while the VM runs and has its settings back afterwards', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    expect(keyboard.modes).toEqual([true]);
    session.vm.end({ reason: 'poweroff', message: '' });
    await session.code;
    expect(keyboard.modes).toEqual([true, false]);
    expect(session.process.eventNames()).toEqual([]);
  });

  it('is given back when the process exits, whoever asked for that', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    session.process.emit('exit');
    expect(keyboard.modes).toEqual([true, false]);
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('is given back while the process is stopped, and raw again after that', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    session.process.emit('SIGTSTP');
    expect(session.stops).toEqual(['raw false']);
    session.process.emit('SIGCONT');
    expect(keyboard.modes).toEqual([true, false, true]);
    session.process.emit('SIGTERM');
    await session.code;
    expect(keyboard.modes.at(-1)).toBe(false);
  });

  it('sends typing to the guest, Ctrl-C too', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    keyboard.write('ls\x03');
    await soon();
    expect(session.vm.receivedText).toBe('ls\x03');
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('quits with Ctrl-] q, also where the guest takes no input', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard, vm: new EchoVm({ listening: false }) });
    await soon();
    keyboard.write('typed ahead');
    await soon();
    keyboard.write('\x1dq');
    expect(await session.code).toBe(130);
    expect(session.vm.calls).toEqual(['stop']);
  });

  it('has keys for Ctrl-Alt-Del, the power button and reset', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    keyboard.write('\x1dc\x1dp\x1dr');
    await soon();
    expect(session.vm.calls).toEqual(['ctrlAltDel', 'powerButton', 'reset']);
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('is told when a reset fails', async () => {
    const vm = new EchoVm();
    vm.resetError = new Error('the kernel file is gone');
    const keyboard = new Keyboard();
    const session = begin({ keyboard, vm });
    await soon();
    keyboard.write('\x1dr');
    await soon();
    expect(session.stderr.text).toBe('tsvm: reset failed: the kernel file is gone\n');
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('lists the keys with Ctrl-] ?', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    keyboard.write('\x1d?');
    await soon();
    expect(session.stderr.text).toContain('Keys after Ctrl-]:');
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('tells a virtio console its size, at first and when it changes', async () => {
    const session = begin({ keyboard: new Keyboard(), terminal: true });
    await soon();
    expect(session.vm.calls).toEqual(['resizeConsole 80x24']);
    session.stdout.columns = 132;
    session.stdout.emit('resize');
    expect(session.vm.calls.at(-1)).toBe('resizeConsole 132x24');
    session.process.emit('SIGTERM');
    await session.code;
    expect(session.stdout.listenerCount('resize')).toBe(0);
  });

  it('types its size with Ctrl-] s', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard, terminal: true });
    await soon();
    keyboard.write('\x1ds');
    await soon();
    expect(session.vm.receivedText).toBe('stty rows 24 cols 80\r');
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('says so where its size is not known', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    keyboard.write('\x1ds');
    await soon();
    expect(session.stderr.text).toBe('tsvm: the size of the terminal is not known\n');
    expect(session.vm.receivedText).toBe('');
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('drops typing beyond 1 MiB that the guest does not take, and tells so once', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard, vm: new EchoVm({ listening: false }) });
    await soon();
    for (let i = 0; i < 40; i++) {
      keyboard.write(Buffer.alloc(64 * 1024, 0x61));
      await soon();
    }
    expect(session.vm.waitingBytes).toBe(1024 * 1024);
    expect(session.stderr.text).toBe('tsvm: the guest takes no input: typing is being dropped\n');
    session.process.emit('SIGTERM');
    await session.code;
  });

  it('that is gone ends the VM with status 129', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard });
    await soon();
    keyboard.end();
    expect(await session.code).toBe(129);
  });

  it('gets messages on a line of their own', async () => {
    const keyboard = new Keyboard();
    const session = begin({ keyboard, terminal: true });
    await soon();
    session.vm.say('login: ');
    session.vm.end({ reason: 'panic', message: 'the guest panicked' });
    await session.code;
    expect(session.stderr.text).toBe('\ntsvm: the guest panicked\n');
  });
});
