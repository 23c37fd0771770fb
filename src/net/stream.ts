/** Frames over a unix stream socket: QEMU's `-netdev stream`, passt, or a switch of ours. */
import { getSystemErrorName } from 'node:util';
import { closeSync } from 'node:fs';
import { FramePort, type FrameEnd } from '../kvm/frame-port.ts';
import type { NetBackend } from './backend.ts';

export type StreamBackendOptions = {
  /** for messages */
  readonly name: string;
  /** Gives a connected socket, which is the back end's then; called again whenever the last one has ended. */
  readonly connect: () => number | Promise<number>;
  /** Called last at {@link NetBackend.close}, for what is behind the socket. */
  readonly disconnected?: () => Promise<void>;
  /** takes a line whenever the link goes down or comes back by itself */
  readonly log: (line: string) => void;
  /** frames begin with offload headers there too; default false */
  readonly vnetHeader?: boolean;
  readonly mtu?: number;
  /** milliseconds between attempts to connect: the first wait, doubled each time up to the last */
  readonly retry?: { readonly first: number; readonly last: number };
  /** milliseconds for which a peer may take nothing before the link goes down; default 5000 */
  readonly patience?: number;
};

const RETRY = { first: 100, last: 5000 };
const PATIENCE_MS = 5000;
/** A connection that has lasted for so long was a good one: the next attempt does not wait for long. */
const STEADY_MS = 10_000;

/**
 * One socket and what it takes to keep it: it connects again when the peer has gone, and a peer that takes nothing
 * for some seconds is a link that is down, until it takes something.
 */
export class StreamBackend implements NetBackend {
  readonly name: string;
  readonly port = new FramePort();
  readonly ports = [this.port];
  readonly vnetHeader: boolean;
  readonly mtu?: number;
  onLink: ((up: boolean) => void) | undefined;
  readonly #options: StreamBackendOptions;
  readonly #patience: number;
  #link = false;
  #connected = false;
  #stalled = false;
  #stall: NodeJS.Timeout | undefined;
  #again: NodeJS.Timeout | undefined;
  /** milliseconds until the next attempt to connect */
  #wait: number;
  /** when it connected */
  #since = -Infinity;
  #closed = false;
  /** an attempt that is under way */
  #connecting: Promise<void> | undefined;

  /**
   * Connects before it resolves, so that a peer that is not there is an error of the start.
   * @throws what `connect` does
   */
  static async open(options: StreamBackendOptions): Promise<StreamBackend> {
    const backend = new StreamBackend(options);
    backend.#take(await options.connect());
    return backend;
  }

  private constructor(options: StreamBackendOptions) {
    this.name = options.name;
    this.vnetHeader = options.vnetHeader ?? false;
    if (options.mtu !== undefined) this.mtu = options.mtu;
    this.#options = options;
    this.#patience = options.patience ?? PATIENCE_MS;
    this.#wait = (options.retry ?? RETRY).first;
    this.port.onEnd = (end) => this.#lost(describe(end));
    this.port.onBlocked = (blocked) => this.#blocked(blocked);
  }

  get link(): boolean {
    return this.#link;
  }

  /** Gives the connection up, as if the peer had gone, and makes a new one. */
  reconnect(reason: string): void {
    if (this.#connected) this.#lost(reason);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.onLink = undefined;
    this.#link = false;
    this.#drop();
    clearTimeout(this.#again);
    await this.#connecting;
    await this.#options.disconnected?.();
  }

  #take(fd: number): void {
    if (this.#closed) {
      closeSync(fd);
      return;
    }
    this.port.open(fd, 'stream', this.vnetHeader);
    this.#connected = true;
    this.#since = performance.now();
    this.#setLink();
  }

  #drop(): void {
    clearTimeout(this.#stall);
    this.#stalled = false;
    this.#connected = false;
    this.port.shut();
  }

  #lost(reason: string): void {
    this.#drop();
    if (performance.now() - this.#since > STEADY_MS) this.#wait = (this.#options.retry ?? RETRY).first;
    this.#options.log(`${this.name}: the link is down: ${reason}`);
    this.#setLink();
    this.#retry();
  }

  #retry(): void {
    if (this.#closed) return;
    this.#again = setTimeout(() => {
      this.#connecting = this.#connect().finally(() => (this.#connecting = undefined));
    }, this.#wait);
    this.#again.unref();
    this.#wait = Math.min(2 * this.#wait, (this.#options.retry ?? RETRY).last);
  }

  async #connect(): Promise<void> {
    try {
      this.#take(await this.#options.connect());
      if (this.#connected) this.#options.log(`${this.name}: the link is up again`);
    } catch {
      // That it is down was told already; it comes back or it does not.
      this.#retry();
    }
  }

  #blocked(blocked: boolean): void {
    clearTimeout(this.#stall);
    if (blocked) {
      this.#stall = setTimeout(() => {
        this.#stalled = true;
        this.#options.log(
          `${this.name}: the link is down: its peer has taken nothing for ${this.#patience / 1000} s`,
        );
        this.#setLink();
      }, this.#patience);
      this.#stall.unref();
    } else if (this.#stalled) {
      this.#stalled = false;
      this.#options.log(`${this.name}: the link is up again: its peer takes frames`);
      this.#setLink();
    }
  }

  #setLink(): void {
    const link = this.#connected && !this.#stalled;
    if (link === this.#link) return;
    this.#link = link;
    this.onLink?.(link);
  }
}

function describe(end: FrameEnd): string {
  switch (end.kind) {
    case 'closed':
      return 'its peer has gone';
    case 'protocol':
      return 'its peer does not speak the protocol: a frame of an impossible length';
    case 'error':
      return `its socket failed: ${getSystemErrorName(-end.errno)}`;
  }
}
