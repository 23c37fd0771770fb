/** A data directory of its own for the VMs of a test, and the built command line that works in it. */
import { execa } from 'execa';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../images/debian/cache.ts';
import { buildGuestProgram } from '../guests/build.ts';

/** the built command line */
export const TSVM = join(packageRoot(), 'dist/tsvm.cjs');

const OPTIONS = { reject: false, stripFinalNewline: false, stdin: 'pipe' } as const;

export type Ran = { readonly code: number; readonly stdout: string; readonly stderr: string };

export class VmHome {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsvm-home-'));
  readonly env = { TSVM_HOME: join(this.folder, 'data') };
  readonly #disk = join(this.folder, 'disk.raw');

  constructor() {
    writeFileSync(this.#disk, Buffer.alloc(1 << 20));
  }

  /** Runs `tsvm` to its end. */
  async tsvm(...args: readonly string[]): Promise<Ran> {
    const { exitCode, stdout, stderr } = await this.begin(args);
    return { code: exitCode ?? -1, stdout, stderr };
  }

  /** Runs `tsvm` while the test goes on. */
  begin(args: readonly string[]) {
    return execa(process.execPath, [TSVM, ...args], { ...OPTIONS, env: this.env });
  }

  /** As {@link tsvm}, for what has to succeed; returns what it prints. */
  async ok(...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.tsvm(...args);
    if (code !== 0) throw new Error(`tsvm ${args.join(' ')}: status ${code}: ${stdout}${stderr}`);
    return stdout;
  }

  /** Arguments of `tsvm create` and `tsvm run` for the guest that echoes what is typed (test/guests/echo). */
  async echoGuest(): Promise<string[]> {
    const { elf } = await buildGuestProgram('echo');
    return [this.#disk, '--kernel', elf, '--mem', '32M', '--net', 'none'];
  }

  /** Makes a VM of the guest that echoes what is typed (test/guests/echo). */
  async create(name: string, ...more: readonly string[]): Promise<void> {
    const [disk = '', ...options] = await this.echoGuest();
    await this.ok('create', disk, name, ...options, ...more);
  }

  /** What `tsvm list` says of a VM. */
  async state(name: string): Promise<string | undefined> {
    const rows = JSON.parse(await this.ok('list', '--json')) as { name: string; state: string }[];
    return rows.find((row) => row.name === name)?.state;
  }

  /** Processes that work for VMs of this directory. */
  processes(): number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .map(Number)
      .filter((pid) => commandOf(pid).includes(this.folder));
  }

  /** Processes that have something of this directory open, mapped, or as their working directory. */
  users(): number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .map(Number)
      .filter((pid) => usedBy(pid).some((path) => path.includes(this.folder)));
  }

  /** All files of the data directory but the journal and locks, which stay. */
  files(): string[] {
    return readdirSync(this.env.TSVM_HOME, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name).slice(this.env.TSVM_HOME.length + 1))
      .filter((path) => path !== 'events.jsonl' && !path.startsWith('locks/'));
  }

  /** Kills what is left, and removes all. */
  remove(): void {
    for (const pid of this.processes()) process.kill(pid, 'SIGKILL');
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** Paths that a process holds; none of one that is gone. */
function usedBy(pid: number): string[] {
  try {
    const links = [
      `/proc/${pid}/cwd`,
      ...readdirSync(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`),
    ];
    return [readFileSync(`/proc/${pid}/maps`, 'utf8'), ...links.map(targetOf)];
  } catch {
    return [];
  }
}

function targetOf(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return '';
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
