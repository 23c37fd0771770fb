import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect } from 'vitest';
import { buildDebian } from '../../images/debian/system.ts';
import type { ExecResult } from '../lab/commands.ts';
import type { GuestHost } from '../lab/host.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';
import { TSVM } from './support.ts';

export type DebianOptions = {
  /** path on the host, as {@link GuestHost.debianDisk} gives it */
  readonly disk: string;
  /** names the run's files; one VM of that name at a time */
  readonly name: string;
  readonly console?: 'serial' | 'hvc0';
  /** what runs tsvm, such as `ip netns exec NAME` */
  readonly through?: readonly string[];
  /** more arguments of `tsvm run` */
  readonly args?: readonly string[];
  /** for the whole run */
  readonly limitMs?: number;
};

const AGENT_PORT = 'org.qemu.guest_agent.0';
const RUN_LIMIT_MS = 900_000;
/** A boot in an emulated host on a busy machine takes minutes. */
const STEP_LIMIT_MS = 480_000;
const TAIL = 3000;
/** What a healthy boot has nothing of. */
const DEVICE_WARNINGS = /virtio|pci|acpi|\bvd[a-z]\b|hvc|balloon|I\/O error/i;

/** A Debian with systemd that boots from its disk, through the command line as a user does it. */
export class DebianGuest {
  /** what the console has said */
  output = '';
  /** Resolves with tsvm's end. */
  readonly ended: Promise<ExecResult>;
  readonly #host: GuestHost;
  readonly #socket: string;
  readonly #pidFile: string;
  readonly #stdin = new Readable({ read: () => undefined });
  readonly #login: { readonly user: string; readonly password: string };
  #result: ExecResult | undefined;
  #listeners: (() => void)[] = [];

  static async boot(host: GuestHost, options: DebianOptions): Promise<DebianGuest> {
    const system = await buildDebian();
    await unpackAhead(system.kernel);
    const console = options.console ?? 'serial';
    const base = join(host.scratch, options.name);
    const argv = [
      ...(options.through ?? []),
      ...['node', TSVM, 'run', '--kernel', system.kernel, '--initrd', system.initrd, '--mem', '1G'],
      ...['--cmdline', `${system.cmdline} console=${console === 'serial' ? 'ttyS0' : 'hvc0'}`],
      ...['--disk', options.disk, '--console', console, '--port', `${AGENT_PORT}=${base}.sock`],
      ...(options.args ?? []),
    ];
    return new DebianGuest(host, base, argv, system.login, options.limitMs ?? RUN_LIMIT_MS);
  }

  private constructor(
    host: GuestHost,
    base: string,
    argv: readonly string[],
    login: { readonly user: string; readonly password: string },
    timeoutMs: number,
  ) {
    this.#host = host;
    this.#socket = `${base}.sock`;
    this.#pidFile = `${base}.pid`;
    this.#login = login;
    const command = ['sh', '-c', `echo $$ > ${this.#pidFile}; exec "$@"`, 'sh', ...argv];
    const onOutput = (data: Buffer): void => {
      this.output += data.toString();
      this.#tell();
    };
    this.ended = host.exec(command, { stdin: this.#stdin, timeoutMs, onOutput }).then((result) => {
      this.#result = result;
      this.#tell();
      return result;
    });
  }

  /** Types at the console. */
  send(text: string): void {
    this.#stdin.push(text);
  }

  /**
   * Waits for the console to say something, after `from`; returns where in the output that ends.
   * @throws Error with the console's end, where it does not come in time or the VM ends first
   */
  async waitFor(pattern: RegExp, from = 0, limitMs = STEP_LIMIT_MS): Promise<number> {
    const end = performance.now() + limitMs;
    for (;;) {
      const match = pattern.exec(this.output.slice(from));
      if (match !== null) return from + match.index + match[0].length;
      const left = end - performance.now();
      if (this.#result !== undefined || left <= 0) {
        const how = this.#result === undefined ? `not within ${limitMs / 1000} s` : 'and the VM has ended';
        const { stderr = '' } = this.#result ?? {};
        throw new Error(
          `the console did not say ${String(pattern)}, ${how}:\n${this.output.slice(-TAIL)}\n${stderr}`,
        );
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#listeners.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Logs in at the console's prompt and returns what a shell command says there. */
  async loginAndRun(command: string): Promise<string> {
    let at = await this.waitFor(/login: $/);
    this.send(`${this.#login.user}\r`);
    at = await this.waitFor(/Password: $/, at);
    this.send(`${this.#login.password}\r`);
    at = await this.waitFor(/[#$] $/, at);
    // The marks are not in what is typed, which the terminal echoes.
    this.send(`printf '<%s>' begin; ${command}; printf '<%s>' end\r`);
    const from = await this.waitFor(/<begin>/, at);
    const to = await this.waitFor(/<end>/, from);
    return this.output.slice(from, to - '<end>'.length).replaceAll('\r', '');
  }

  /** Waits for the guest agent, which comes late in the boot. */
  async agentReady(): Promise<void> {
    const wait = ['--wait', String(STEP_LIMIT_MS / 1000), this.#socket];
    const result = await Promise.race([this.#agent(wait, STEP_LIMIT_MS + 30_000), this.ended]);
    if (this.#result !== undefined)
      throw new Error(`the VM has ended: ${this.#result.stderr}\n${this.output.slice(-TAIL)}`);
    if (result.code !== 0) throw new Error(`${result.stderr}\n${this.output.slice(-TAIL)}`);
  }

  /** Runs a shell line in the guest through its agent. */
  run(line: string, limitMs = STEP_LIMIT_MS): Promise<ExecResult> {
    return this.#agent([this.#socket, '--', '/bin/sh', '-c', line], limitMs);
  }

  /** As {@link run}, for lines that have to succeed; returns what they say. */
  async say(line: string, limitMs = STEP_LIMIT_MS): Promise<string> {
    const { code, stdout, stderr } = await this.run(line, limitMs);
    if (code !== 0)
      throw new Error(`${line}: status ${code}: ${stdout}${stderr}\n${this.output.slice(-TAIL)}`);
    return stdout;
  }

  /** Everything that a boot has to have come to, whatever the transport. */
  async expectHealthy(): Promise<void> {
    expect((await this.run('systemctl is-system-running --wait')).stdout.trim()).toBe('running');
    expect(await this.say('systemctl --failed --no-legend')).toBe('');
    const warnings = (await this.say('dmesg --level=emerg,alert,crit,err,warn')).split('\n');
    expect(warnings.filter((line) => DEVICE_WARNINGS.test(line))).toEqual([]);
  }

  /** Asks the guest to power off, and returns how tsvm ended. */
  async powerOff(): Promise<ExecResult> {
    await this.run('systemctl poweroff --no-block');
    return this.ended;
  }

  /** Kills the VMM, as a crash of the host would do it. */
  async kill(): Promise<void> {
    await this.#host.exec(`kill -9 $(cat '${this.#pidFile}')`);
    await this.ended;
  }

  #agent(args: readonly string[], timeoutMs: number): Promise<ExecResult> {
    return this.#host.exec(['node', TSVM, 'agent', ...args], { timeoutMs });
  }

  #tell(): void {
    for (const listener of this.#listeners.splice(0)) listener();
  }
}
