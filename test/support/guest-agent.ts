import { execa } from 'execa';
import { chownSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fetchClosure } from '../../images/debian/packages.ts';

/** An agent on this host must leave the host alone, whatever a test asks of it. */
const BLOCKED = [
  'guest-shutdown',
  'guest-fsfreeze-freeze',
  'guest-fsfreeze-freeze-list',
  'guest-fsfreeze-thaw',
  'guest-fstrim',
  'guest-set-time',
  'guest-set-user-password',
  'guest-set-vcpus',
  'guest-set-memory-blocks',
  'guest-ssh-add-authorized-keys',
  'guest-ssh-remove-authorized-keys',
  'guest-suspend-disk',
  'guest-suspend-ram',
  'guest-suspend-hybrid',
];
/** and where tests run as root, it does not */
const NOBODY = 65534;

/** Debian's qemu-guest-agent, run on this host out of the package cache, for the client to talk to. */
export class GuestAgent {
  /** a directory that the agent may write to */
  readonly directory: string;
  /** the socket that it listens on once {@link start} has resolved */
  readonly path: string;
  readonly #command: readonly string[];
  #running: ReturnType<typeof spawn> | undefined;

  /** @throws DebianError where the package cannot be had; Error where it does not run here */
  static async fetch(): Promise<GuestAgent> {
    const { root } = await fetchClosure('qemu-guest-agent');
    const libraries = ['lib', 'usr/lib'].map((dir) => join(root, dir, 'x86_64-linux-gnu')).join(':');
    const command = [
      join(root, 'lib64/ld-linux-x86-64.so.2'),
      '--library-path',
      libraries,
      join(root, 'usr/sbin/qemu-ga'),
    ];
    const { failed, shortMessage } = await execa(command[0]!, [...command.slice(1), '--version'], {
      reject: false,
      ...identity(),
    });
    if (failed) throw new Error(`qemu-guest-agent does not run here: ${shortMessage ?? ''}`);
    return new GuestAgent(command);
  }

  private constructor(command: readonly string[]) {
    this.#command = command;
    this.directory = mkdtempSync(join(tmpdir(), 'tsvm-agent-'));
    this.path = join(this.directory, 'agent.sock');
    const { uid } = identity();
    if (uid !== undefined) chownSync(this.directory, uid, uid);
  }

  async start(): Promise<void> {
    const args = [
      ...this.#command.slice(1),
      '--method=unix-listen',
      `--path=${this.path}`,
      `--statedir=${this.directory}`,
      `--pidfile=${join(this.directory, 'agent.pid')}`,
      `--blacklist=${BLOCKED.join(',')}`,
    ];
    const running = spawn(this.#command[0]!, args);
    this.#running = running;
    for (let i = 0; !existsSync(this.path); i++) {
      if (running.exitCode !== null || i === 1000) {
        running.kill('SIGKILL');
        throw new Error(`qemu-guest-agent does not start: ${(await running).stderr}`);
      }
      await sleep(10);
    }
  }

  async stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    running?.kill('SIGKILL');
    await running;
    rmSync(this.path, { force: true });
  }

  async close(): Promise<void> {
    await this.stop();
    rmSync(this.directory, { recursive: true });
  }
}

const spawn = (file: string, args: readonly string[]) =>
  execa(file, args, { reject: false, stdin: 'ignore', ...identity() });

function identity(): { uid?: number; gid?: number } {
  return process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {};
}
