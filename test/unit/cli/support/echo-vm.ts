import type { RunningVm, SerialPort, VmExit } from '../../../../src/vmm/types.ts';

/** what {@link SerialPort.tail} keeps */
const TAIL_LIMIT = 64 * 1024;
const NOISE = Buffer.alloc(64 * 1024, 'x');

/**
 * A VM without a machine: its guest echoes what it is sent, once it listens. For the parts that hold a VM and do
 * not care what runs in it.
 */
export class EchoVm implements RunningVm {
  readonly timings = { kernelLoaded: 12.34, firstRun: 56.78 };
  readonly exited: Promise<VmExit>;
  readonly serial: SerialPort;
  readonly console: SerialPort;
  readonly balloon = undefined;
  readonly shares = [];
  readonly disks = [];
  readonly networks = [];
  /** what was asked of the machine, in order */
  readonly calls: string[] = [];
  /** all that the guest was given */
  readonly received: Uint8Array[] = [];
  /** set to make {@link stop} take for ever */
  neverStops = false;
  /** set to make {@link reset} fail */
  resetError: Error | undefined;
  #listeners = new Set<(bytes: Uint8Array) => void>();
  #output = '';
  #listening: boolean;
  #waiting: { bytes: Uint8Array; taken: () => void }[] = [];
  #end!: (exit: VmExit) => void;

  constructor(options: { listening?: boolean; output?: string } = {}) {
    this.#listening = options.listening ?? true;
    this.#output = options.output ?? '';
    this.exited = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.serial = {
      onData: (listener) => {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
      },
      write: (input) => {
        const bytes = typeof input === 'string' ? Buffer.from(input) : input;
        return new Promise((resolve) => {
          this.#waiting.push({ bytes, taken: resolve });
          this.#drain();
        });
      },
      tail: (lines) =>
        lines === undefined ? this.#output : this.#output.split('\n').slice(-lines).join('\n'),
    };
    this.console = this.serial;
  }

  snapshot(): Promise<never> {
    return Promise.reject(new Error('there is no machine'));
  }

  port(): undefined {
    return undefined;
  }

  /** Bytes written to the serial port that the guest has not taken. */
  get waitingBytes(): number {
    return this.#waiting.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  get receivedText(): string {
    return Buffer.concat(this.received).toString();
  }

  /** The guest begins to read its console. */
  listen(): void {
    this.#listening = true;
    this.#drain();
  }

  /** The guest says something. */
  say(text: string | Uint8Array): void {
    const bytes = Buffer.from(text);
    this.#output = (this.#output + bytes.toString()).slice(-TAIL_LIMIT);
    this.#send(bytes);
  }

  /** The guest says 16 MiB that nobody remembers. */
  flood(): void {
    for (let i = 0; i < 256; i++) this.#send(NOISE);
  }

  end(exit: VmExit): void {
    this.#end(exit);
  }

  newGeneration(): void {
    this.calls.push('newGeneration');
  }

  powerButton(): void {
    this.calls.push('powerButton');
  }

  resizeConsole(columns: number, rows: number): void {
    this.calls.push(`resizeConsole ${columns}x${rows}`);
  }

  setLink(index: number, up: boolean): void {
    this.calls.push(`setLink ${index} ${up}`);
  }

  resizeDisk(index: number, size: number): Promise<void> {
    this.calls.push(`resizeDisk ${index} ${size}`);
    return Promise.resolve();
  }

  ctrlAltDel(): void {
    this.calls.push('ctrlAltDel');
  }

  reset(): Promise<void> {
    this.calls.push('reset');
    return this.resetError === undefined ? Promise.resolve() : Promise.reject(this.resetError);
  }

  pause(): Promise<void> {
    return Promise.resolve();
  }

  resume(): Promise<void> {
    return Promise.resolve();
  }

  accessCounts(): [] {
    return [];
  }

  exitCounts(): ReadonlyMap<string, number> {
    return new Map();
  }

  stop(): Promise<void> {
    this.calls.push('stop');
    if (this.neverStops) return new Promise(() => undefined);
    this.#end({ reason: 'stopped', message: 'the VM was stopped' });
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #send(bytes: Uint8Array): void {
    for (const listener of this.#listeners) listener(bytes);
  }

  #drain(): void {
    if (!this.#listening) return;
    for (const { bytes, taken } of this.#waiting.splice(0)) {
      this.received.push(bytes);
      this.say(bytes);
      setImmediate(taken);
    }
  }
}
