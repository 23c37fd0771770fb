import type { Duplex } from 'node:stream';
import { AgentChannel, type AgentLimits, type ChannelOptions } from './channel.ts';
import { exec, type ExecOptions, type ExecResult } from './exec.ts';
import { AgentFile } from './file.ts';
import * as replies from './replies.ts';

/** How long an agent that shuts its guest down has to object. */
const SHUTDOWN_QUIET_MS = 1000;
/** The guest has to write all that it holds. */
const FREEZE_TIMEOUT_MS = 120_000;
const READY_TIMEOUT_MS = 60_000;
const NS_PER_MS = 1_000_000;

export type AgentOptions = ChannelOptions & {
  /** for one answer, in milliseconds; default 10 s */
  readonly timeout?: number;
};

export type AgentCommand = {
  readonly name: string;
  readonly enabled: boolean;
  /** whether it is answered where it succeeds */
  readonly successResponse: boolean;
};

export type AgentInfo = { readonly version: string; readonly commands: readonly AgentCommand[] };

/** What the guest says of its system; what it does not say is absent. */
export type GuestOsInfo = {
  /** e.g. `debian` */
  readonly id?: string | undefined;
  readonly name?: string | undefined;
  readonly prettyName?: string | undefined;
  readonly version?: string | undefined;
  readonly versionId?: string | undefined;
  readonly variant?: string | undefined;
  readonly variantId?: string | undefined;
  readonly machine?: string | undefined;
  readonly kernelRelease?: string | undefined;
  readonly kernelVersion?: string | undefined;
};

export type GuestAddress = {
  readonly address: string;
  readonly type: 'ipv4' | 'ipv6';
  /** bits of the network */
  readonly prefix: number;
};

export type GuestInterface = {
  readonly name: string;
  readonly hardwareAddress: string | undefined;
  readonly addresses: readonly GuestAddress[];
};

/**
 * A client of qemu-guest-agent. Requests go out one after the other, whoever makes them. All methods throw
 * {@link AgentError}s: AgentConnectionError, AgentTimeoutError, AgentCommandError, AgentProtocolError.
 */
export class AgentClient implements AsyncDisposable {
  readonly #channel: AgentChannel;
  readonly #limits: AgentLimits;

  /** @param target path of the port's socket, connected to when needed; or a stream, which becomes the client's */
  constructor(target: string | Duplex, options: AgentOptions = {}) {
    this.#channel = new AgentChannel(target, options);
    this.#limits = options.timeout === undefined ? {} : { timeout: options.timeout };
  }

  /**
   * Waits until the agent is there, also from before the guest has booted on.
   * @param limits timeout in milliseconds, default 60 s
   */
  waitUntilReady(limits: AgentLimits = {}): Promise<void> {
    return this.#channel.waitUntilReady({ timeout: READY_TIMEOUT_MS, ...limits });
  }

  async ping(limits: AgentLimits = {}): Promise<void> {
    await this.#channel.request('guest-ping', {}, replies.nothing, { ...this.#limits, ...limits });
  }

  async info(): Promise<AgentInfo> {
    const answer = await this.#channel.request('guest-info', {}, replies.info, this.#limits);
    const commands = answer.supported_commands.map((command) => ({
      name: command.name,
      enabled: command.enabled,
      successResponse: command['success-response'],
    }));
    return { version: answer.version, commands };
  }

  async osInfo(): Promise<GuestOsInfo> {
    const answer = await this.#channel.request('guest-get-osinfo', {}, replies.osInfo, this.#limits);
    return {
      id: answer.id,
      name: answer.name,
      prettyName: answer['pretty-name'],
      version: answer.version,
      versionId: answer['version-id'],
      variant: answer.variant,
      variantId: answer['variant-id'],
      machine: answer.machine,
      kernelRelease: answer['kernel-release'],
      kernelVersion: answer['kernel-version'],
    };
  }

  async networkInterfaces(): Promise<GuestInterface[]> {
    const command = 'guest-network-get-interfaces';
    const answer = await this.#channel.request(command, {}, replies.networkInterfaces, this.#limits);
    return answer.map((each) => ({
      name: each.name,
      hardwareAddress: each['hardware-address'],
      addresses: (each['ip-addresses'] ?? []).map((address) => ({
        address: address['ip-address'],
        type: address['ip-address-type'],
        prefix: address.prefix,
      })),
    }));
  }

  /**
   * Runs a command and waits for its end; it is looked for in the agent's PATH. An exit code that is not 0 is no
   * error.
   */
  exec(command: string, args: readonly string[] = [], options: ExecOptions = {}): Promise<ExecResult> {
    return exec(this.#channel, command, args, options, this.#limits);
  }

  /** Asks the guest to end. Resolves once it has not objected for a second: its end is seen elsewhere. */
  shutdown(mode: 'powerdown' | 'reboot' | 'halt' = 'powerdown'): Promise<void> {
    return this.#channel.send('guest-shutdown', { mode }, SHUTDOWN_QUIET_MS, this.#limits);
  }

  /** Has the guest write all it holds and stop writing; returns how many file systems that is. */
  freeze(limits: AgentLimits = {}): Promise<number> {
    const within = { timeout: FREEZE_TIMEOUT_MS, ...limits };
    return this.#channel.request('guest-fsfreeze-freeze', {}, replies.number, within);
  }

  /** Lets it write again; returns how many file systems were frozen. */
  thaw(limits: AgentLimits = {}): Promise<number> {
    const within = { timeout: FREEZE_TIMEOUT_MS, ...limits };
    return this.#channel.request('guest-fsfreeze-thaw', {}, replies.number, within);
  }

  freezeStatus(): Promise<'thawed' | 'frozen'> {
    return this.#channel.request('guest-fsfreeze-status', {}, replies.freezeStatus, this.#limits);
  }

  /** Sets the guest's clock, by default to the host's time. */
  async setTime(time: Date = new Date()): Promise<void> {
    const args = { time: time.getTime() * NS_PER_MS };
    await this.#channel.request('guest-set-time', args, replies.nothing, this.#limits);
  }

  /** What the guest's clock says, to the microsecond. */
  async time(): Promise<Date> {
    const ns = await this.#channel.request('guest-get-time', {}, replies.number, this.#limits);
    return new Date(ns / NS_PER_MS);
  }

  /** Opens a file in the guest. @param mode as of fopen(3): `r`, `w`, `a`, with `+` */
  async openFile(path: string, mode = 'r'): Promise<AgentFile> {
    const handle = await this.#channel.request(
      'guest-file-open',
      { path, mode },
      replies.number,
      this.#limits,
    );
    return new AgentFile(this.#channel, path, handle, this.#limits);
  }

  /** Ends the connection; the agent goes on. */
  close(): void {
    this.#channel.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }
}
