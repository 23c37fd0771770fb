import type { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';

import type { RunningVm, VmExit, VmOptions } from '../vmm/types.ts';
import { pumpPipe, pumpTerminal } from './console-input.ts';
import { ConsoleOutput } from './console-output.ts';
import { errorMessage } from './errors.ts';
import { type ConsoleCommand, escapeHelp } from './escape.ts';
import { EXIT, type ExitCode, exitCodeOf } from './exit-codes.ts';
import { formatStats } from './run-stats.ts';
import { enterRawMode, type InputStream, type ProcessEvents, type RawMode } from './terminal.ts';

/** How long a VM may take to stop, and a reader to take the last output after that, in milliseconds. */
const STOP_LIMIT = 5000;
const LAST_OUTPUT_LIMIT = 1000;
/** Lines of the console shown where a time limit struck. */
const TAIL_LINES = 40;

/** A standard output or error stream; a `tty.WriteStream` where it is a terminal. */
export type OutputStream = Writable & {
  readonly isTTY?: boolean;
  readonly rows?: number;
  readonly columns?: number;
};

export type SessionRequest = {
  readonly start: (options: VmOptions) => Promise<RunningVm>;
  readonly options: VmOptions;
  /** the VM is ended after this many seconds; none: never */
  readonly timeout?: number;
  /** tell at the end how long the start took */
  readonly timings?: boolean;
  /** tell at the end what the guest has accessed */
  readonly stats?: boolean;
};

/** What a session has of its process. */
export type SessionIo = {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly process: ProcessEvents;
  /** stops the whole process as SIGSTOP does */
  readonly stopProcess: () => void;
};

/** Why a session ends though its VM has not. */
type Leave = { readonly code: ExitCode; readonly message?: string; readonly tail?: boolean };

const SIGNALS: readonly (readonly [NodeJS.Signals, ExitCode])[] = [
  ['SIGHUP', EXIT.hangup],
  ['SIGINT', EXIT.interrupted],
  ['SIGQUIT', EXIT.quit],
  ['SIGTERM', EXIT.terminated],
];

/**
 * Boots a VM in the foreground with its console on standard input and output, and stays until it ends, or
 * until the user, a signal or the time limit ends it. A second signal does not wait for the VM to stop.
 * Returns the exit status. @throws what `start` throws; the terminal has its settings back then as always
 */
export async function runSession(request: SessionRequest, io: SessionIo): Promise<ExitCode> {
  const session = new Session(request, io);
  try {
    return await session.run();
  } finally {
    session.release();
  }
}

class Once<T> {
  readonly promise: Promise<T>;
  #resolve: ((value: T) => void) | undefined;

  constructor() {
    this.promise = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  get done(): boolean {
    return this.#resolve === undefined;
  }

  resolve(value: T): void {
    this.#resolve?.(value);
    this.#resolve = undefined;
  }
}

class Session {
  readonly #request: SessionRequest;
  readonly #io: SessionIo;
  readonly #leave = new Once<Leave>();
  /** a second signal: nothing more is waited for */
  readonly #hurry = new Once<undefined>();
  readonly #undo: (() => void)[] = [];
  readonly #output: ConsoleOutput;

  constructor(request: SessionRequest, io: SessionIo) {
    this.#request = request;
    this.#io = io;
    this.#output = new ConsoleOutput(io.stdout, {
      onDrop: () => this.#say('standard output is not read: console output is being dropped'),
      onError: (error) => {
        const gone = (error as NodeJS.ErrnoException).code === 'EPIPE';
        this.#leave.resolve(
          gone
            ? { code: EXIT.brokenPipe }
            : { code: EXIT.failed, message: `write failed on standard output: ${errorMessage(error)}` },
        );
      },
    });
  }

  async run(): Promise<ExitCode> {
    this.#watchSignals();
    this.#watchTime();
    // Node ends a process that waits for nothing but promises, whatever becomes of them.
    const alive = setInterval(() => undefined, 2 ** 30);
    this.#undo.push(() => clearInterval(alive));
    const starting = this.#request.start({ log: (line) => this.#say(line), ...this.#request.options });
    const started = await Promise.race([starting, this.#leave.promise]);
    if ('code' in started) {
      // A VM that comes up after all must not live on where the process does.
      starting.then(
        (vm) => vm.stop(),
        () => undefined,
      );
      this.#sayLeave(started, undefined);
      return started.code;
    }
    const vm = started;
    if (vm.note !== undefined) this.#say(vm.note);
    this.#attach(vm);
    const end = await Promise.race([vm.exited, this.#leave.promise]);
    const left = 'code' in end;
    await this.#stop(vm);
    // The reader of a guest that ended by itself may take its time; one that the user leaves may not.
    await this.#wait(this.#output.flushed(), left ? LAST_OUTPUT_LIMIT : undefined);
    this.release();
    if (left) this.#sayLeave(end, vm);
    else this.#sayExit(end);
    if (this.#request.timings === true) this.#sayTimings(vm);
    if (this.#request.stats === true) this.#print(formatStats(vm));
    return left ? end.code : exitCodeOf(end.reason);
  }

  /** Takes everything back that the session has set: terminal, listeners, timers. May be called again. */
  release(): void {
    for (const undo of this.#undo.splice(0).reverse()) undo();
  }

  #attach(vm: RunningVm): void {
    const { stdin, process } = this.#io;
    // What the guest said before anybody could listen is in the tail; no event comes in between.
    this.#output.write(Buffer.from(vm.console.tail()));
    this.#undo.push(vm.console.onData((bytes) => this.#output.write(bytes)));
    this.#followWindowSize(vm);
    if (stdin.isTTY !== true) {
      const onError = (error: Error): void => {
        this.#say(`read failed on standard input: ${errorMessage(error)}; the guest gets no more input`);
      };
      this.#undo.push(pumpPipe(stdin, vm.console, { onError }));
      return;
    }
    const raw = enterRawMode(stdin, process);
    this.#undo.push(raw.restore);
    this.#watchJobControl(raw);
    this.#undo.push(
      pumpTerminal(stdin, vm.console, {
        onCommand: (command) => this.#command(vm, command),
        onDrop: () => this.#say('the guest takes no input: typing is being dropped'),
        onHangup: () => this.#leave.resolve({ code: EXIT.hangup }),
      }),
    );
  }

  #watchSignals(): void {
    for (const [signal, code] of SIGNALS) {
      this.#listen(signal, () => {
        if (this.#leave.done) this.#hurry.resolve(undefined);
        this.#leave.resolve({ code });
      });
    }
  }

  /** The terminal of a stopped process is the shell's; on its return its settings are whatever they are. */
  #watchJobControl(raw: RawMode): void {
    this.#listen('SIGTSTP', () => {
      raw.suspend();
      this.#io.stopProcess();
    });
    this.#listen('SIGCONT', () => raw.resume());
  }

  #listen(signal: NodeJS.Signals, listener: () => void): void {
    this.#io.process.on(signal, listener);
    this.#undo.push(() => this.#io.process.off(signal, listener));
  }

  #watchTime(): void {
    const { timeout, options } = this.#request;
    if (timeout === undefined) return;
    const message = `run timed out on ${options.kernel}: the guest did not power off within ${timeout} s`;
    const timer = setTimeout(
      () => this.#leave.resolve({ code: EXIT.timeout, message, tail: true }),
      timeout * 1000,
    );
    this.#undo.push(() => clearTimeout(timer));
  }

  #command(vm: RunningVm, command: ConsoleCommand): void {
    switch (command) {
      case 'quit':
        this.#leave.resolve({ code: EXIT.interrupted });
        return;
      case 'ctrl-alt-del':
        vm.ctrlAltDel();
        return;
      case 'power-button':
        vm.powerButton();
        return;
      case 'reset':
        vm.reset().catch((error: unknown) => this.#say(`reset failed: ${errorMessage(error)}`));
        return;
      case 'window-size':
        this.#typeWindowSize(vm);
        return;
      case 'help':
        this.#print(escapeHelp());
        return;
    }
  }

  /** A virtio console hears of the terminal's size, now and when it changes. */
  #followWindowSize(vm: RunningVm): void {
    const { stdout } = this.#io;
    const follow = (): void => {
      const { rows, columns } = this.#windowSize() ?? {};
      if (rows !== undefined && columns !== undefined) vm.resizeConsole(columns, rows);
    };
    follow();
    stdout.on('resize', follow);
    this.#undo.push(() => stdout.off('resize', follow));
  }

  /** A serial line has no channel for the window size, so it is typed, as the user would do it. */
  #typeWindowSize(vm: RunningVm): void {
    const size = this.#windowSize();
    if (size === undefined) this.#say('the size of the terminal is not known');
    else vm.console.write(`stty rows ${size.rows} cols ${size.columns}\r`).catch(() => undefined);
  }

  #windowSize(): { rows: number; columns: number } | undefined {
    const terminal = [this.#io.stdout, this.#io.stderr].find((stream) => stream.isTTY === true);
    const { rows = 0, columns = 0 } = terminal ?? {};
    return rows > 0 && columns > 0 ? { rows, columns } : undefined;
  }

  async #stop(vm: RunningVm): Promise<void> {
    const stopping = vm.stop().then(
      () => true,
      (error: unknown) => {
        this.#say(`stop failed on ${this.#request.options.kernel}: ${errorMessage(error)}`);
        return true;
      },
    );
    if ((await this.#wait(stopping, STOP_LIMIT)) === undefined && !this.#hurry.done) {
      this.#say(`stop failed on ${this.#request.options.kernel}: not done within ${STOP_LIMIT / 1000} s`);
    }
  }

  /** Waits for `work`, but no longer than `limit` milliseconds, and not where the user is in a hurry. */
  async #wait<T>(work: Promise<T>, limit: number | undefined): Promise<T | undefined> {
    const cancel = new AbortController();
    const impatient: Promise<undefined>[] = [this.#hurry.promise];
    if (limit === undefined) impatient.push(this.#leave.promise.then(() => undefined));
    else impatient.push(delay(limit, undefined, { signal: cancel.signal }).catch(() => undefined));
    try {
      return await Promise.race([work, ...impatient]);
    } finally {
      cancel.abort();
    }
  }

  #sayLeave(leave: Leave, vm: RunningVm | undefined): void {
    if (leave.message !== undefined) this.#say(leave.message);
    if (leave.tail !== true) return;
    const tail = vm?.console.tail(TAIL_LINES).trimEnd() ?? '';
    if (vm === undefined) this.#print('The kernel was still being loaded.');
    else if (tail === '') this.#print('The console has said nothing.');
    else this.#print(`The console's last lines:\n${tail}`);
  }

  #sayExit(exit: VmExit): void {
    if (exit.reason === 'poweroff') return;
    this.#say(exit.message);
    if (exit.report !== undefined) this.#print(exit.report.trimEnd());
  }

  #sayTimings(vm: RunningVm): void {
    const { kernelLoaded, firstRun } = vm.timings;
    this.#say(`kernel loaded after ${kernelLoaded.toFixed(1)} ms, first run after ${firstRun.toFixed(1)} ms`);
  }

  #say(message: string): void {
    this.#print(`tsvm: ${message}`);
  }

  #print(text: string): void {
    const { stdout, stderr } = this.#io;
    // On a terminal the guest's unfinished line must not run into ours.
    const fresh = stdout.isTTY === true && stderr.isTTY === true && !this.#output.atLineStart ? '\n' : '';
    stderr.write(`${fresh}${text}\n`);
  }
}
