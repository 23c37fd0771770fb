/**
 * A VM whose guest is this host: its folder and control API are those of a VM that runs, commands go to Debian's guest
 * agent, which runs here, and their streams through named pipes in the place of the guest's ports.
 */
import { execa } from 'execa';
import { chmodSync, chownSync, closeSync, constants, mkdirSync, openSync, rmSync, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { AgentClient } from '../../src/manager/agent/client.ts';
import type { ControlledVm } from '../../src/manager/control/routes.ts';
import { ControlServer } from '../../src/manager/control/server.ts';
import { CONTROL_SOCKET } from '../../src/manager/control/types.ts';
import { execPorts } from '../../src/manager/vmm/exec-slots.ts';
import { serveExec } from '../../src/manager/vmm/exec-stream.ts';
import { PROCESS_LOCK } from '../../src/manager/vmm/record.ts';
import { FileLocks } from '../../src/storage/file-lock.ts';
import type { GuestPort } from '../../src/vmm/types.ts';
import { GuestAgent } from './guest-agent.ts';
import type { VmHome } from './vm-home.ts';

const { O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;
const RETRY_MS = 5;

export class HostGuest {
  /** a folder that the guest's processes may write to */
  readonly folder: string;
  readonly #agent: GuestAgent;
  readonly #client: AgentClient;
  readonly #server: ControlServer;
  readonly #lock: FileLocks;

  /** @param name of a VM of `home` that does not run @throws as GuestAgent.fetch */
  static async start(home: VmHome, name: string): Promise<HostGuest> {
    const agent = await GuestAgent.fetch();
    await agent.start();
    const ports = new Map<string, PipePort>();
    const owner = statSync(agent.directory);
    for (const { name: port } of execPorts) {
      const path = join(agent.directory, port);
      await execa('mkfifo', ['-m', '666', path]);
      chownSync(path, owner.uid, owner.gid);
      ports.set(port, new PipePort(path, port.endsWith('.in')));
    }
    const files = join(agent.directory, 'files');
    mkdirSync(files);
    chownSync(files, owner.uid, owner.gid);
    // What the guest has is read by the test, too.
    chmodSync(agent.directory, 0o755);
    const folder = join(home.env.TSVM_HOME, 'vms', name);
    const lockPath = join(folder, PROCESS_LOCK);
    closeSync(openSync(lockPath, 'a'));
    const lock = new FileLocks([[lockPath, 'write']]);
    mkdirSync(join(folder, 'run'));
    const client = new AgentClient(agent.path);
    const guest = {
      vm: { port: (port: string) => ports.get(port) },
      agent: client,
      portFolder: agent.directory,
    };
    const control: Pick<ControlledVm, 'agent' | 'agentAnswered' | 'agentReady' | 'stream'> = {
      agent: client,
      agentAnswered: () => undefined,
      agentReady: () => undefined,
      stream: (connection, head) => void serveExec(guest, connection, head),
    };
    // There is no machine: requests about one are for the tests of VMs that have it.
    const server = await ControlServer.listen(join(folder, 'run', CONTROL_SOCKET), control as ControlledVm);
    return new HostGuest(files, agent, client, server, lock);
  }

  private constructor(
    folder: string,
    agent: GuestAgent,
    client: AgentClient,
    server: ControlServer,
    lock: FileLocks,
  ) {
    this.folder = folder;
    this.#agent = agent;
    this.#client = client;
    this.#server = server;
    this.#lock = lock;
  }

  async close(): Promise<void> {
    await this.#server.close();
    this.#client.close();
    this.#lock.release();
    await this.#agent.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** One direction of a port. */
class PipePort implements GuestPort {
  readonly #path: string;
  readonly #toGuest: boolean;
  #open: PipeEnd | undefined;

  constructor(path: string, toGuest: boolean) {
    this.#path = path;
    this.#toGuest = toGuest;
  }

  get isOpen(): boolean {
    return this.#open !== undefined;
  }

  get guestOpenedAt(): undefined {
    return undefined;
  }

  /** Of a pipe it is known only once something has come through it. */
  get guestOpen(): boolean {
    return this.#open !== undefined && !this.#open.guestEnded;
  }

  open(): Duplex {
    const end: PipeEnd = new PipeEnd(this.#path, this.#toGuest, () => {
      if (this.#open === end) this.#open = undefined;
    });
    this.#open = end;
    return end;
  }
}

class PipeEnd extends Duplex {
  guestEnded: boolean;
  readonly #closed: () => void;
  #socket: Socket | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string, toGuest: boolean, closed: () => void) {
    super({ allowHalfOpen: true });
    this.#closed = closed;
    this.guestEnded = toGuest;
    if (toGuest) this.#openWhenRead(path);
    else this.#openToRead(path);
  }

  override _read(): void {
    this.#socket?.resume();
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#socket === undefined) this.once('opened', () => this.#socket?.write(bytes, done));
    else this.#socket.write(bytes, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#timer);
    this.#socket?.destroy();
    this.#closed();
    done(error);
  }

  #openToRead(path: string): void {
    const socket = new Socket({ fd: openSync(path, O_RDONLY | O_NONBLOCK), readable: true, writable: false });
    this.#socket = socket;
    socket.on('data', (bytes) => {
      if (!this.push(bytes)) socket.pause();
    });
    socket.on('error', () => undefined);
    socket.on('end', () => {
      this.guestEnded = true;
    });
  }

  /** A pipe that nobody reads is not opened for writing. */
  #openWhenRead(path: string): void {
    try {
      const fd = openSync(path, O_WRONLY | O_NONBLOCK);
      this.#socket = new Socket({ fd, readable: false, writable: true });
      this.#socket.on('error', () => undefined);
      this.emit('opened');
    } catch {
      this.#timer = setTimeout(() => this.#openWhenRead(path), RETRY_MS);
    }
  }
}
