import type { ExecResult } from '../lab/commands.ts';
import type { GuestHost } from '../lab/host.ts';
import { TSVM } from './support.ts';

/** The built command line, where guests run, with a data directory of its own. */
export class HostTsvm {
  readonly host: GuestHost;
  readonly home: string;
  readonly #timeoutMs: number;

  constructor(host: GuestHost, home: string, timeoutMs: number) {
    this.host = host;
    this.home = home;
    this.#timeoutMs = timeoutMs;
  }

  run(...args: readonly string[]): Promise<ExecResult> {
    const command = ['env', `TSVM_HOME=${this.home}`, 'node', TSVM, ...args];
    return this.host.exec(command, { timeoutMs: this.#timeoutMs });
  }

  /** As {@link ok}; the VM that it starts leaves the processor to whoever else wants it from then on. */
  async meekly(name: string, ...args: readonly string[]): Promise<void> {
    await this.ok(...args);
    await this.shell(`
      pid=$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p' 'vms/${name}/process.json')
      renice -n 10 -p $(ls /proc/$pid/task) > /dev/null`);
  }

  /** @returns its standard output @throws Error where its exit status is not 0 */
  async ok(...args: readonly string[]): Promise<string> {
    return sound(await this.run(...args), `tsvm ${args.join(' ')}`);
  }

  /** A line for a guest's shell. @returns its standard output @throws Error where its exit status is not 0 */
  inGuest(name: string, line: string): Promise<string> {
    return this.ok('exec', name, '--', 'sh', '-c', line);
  }

  /** A line for the host's shell, where `t` is tsvm, in the data directory, up to the first command that fails. */
  tryShell(line: string): Promise<ExecResult> {
    const prefix = `set -e; t() { TSVM_HOME='${this.home}' node '${TSVM}' "$@"; }; cd '${this.home}'`;
    return this.host.exec(`${prefix}\n${line}`, { timeoutMs: this.#timeoutMs });
  }

  /** As {@link tryShell}. @returns its standard output @throws Error where its exit status is not 0 */
  async shell(line: string): Promise<string> {
    return sound(await this.tryShell(line), line);
  }

  async states(): Promise<Record<string, string>> {
    const rows = JSON.parse(await this.ok('list', '--json')) as { name: string; state: string }[];
    return Object.fromEntries(rows.map(({ name, state }) => [name, state]));
  }
}

function sound({ code, stdout, stderr }: ExecResult, what: string): string {
  if (code !== 0) throw new Error(`${what}: status ${code}: ${stdout}${stderr}`);
  return stdout;
}
