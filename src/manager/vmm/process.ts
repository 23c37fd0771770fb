/** The process of one running VM: started detached by a command, it lives until the VM ends. */
import { randomUUID } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { lockOpenFile } from '../../storage/file-lock.ts';
import { openKernel } from '../../boot/kernel-file.ts';
import { Networks } from '../../vmm/networks.ts';
import { startVm } from '../../vmm/vm.ts';
import type { QueueTraffic } from '../../vmm/network-types.ts';
import { STATE_FILE } from '../../vmm/snapshot/state-file.ts';
import type { RunningVm, SnapshotOptions, SnapshotResult, VmExit } from '../../vmm/types.ts';
import { AgentClient } from '../agent/client.ts';
import { AGENT_PORT } from '../agent/port.ts';
import { ControlServer } from '../control/server.ts';
import type { ControlledVm } from '../control/routes.ts';
import {
  AGENT_SOCKET,
  CONSOLE_SOCKET,
  CONTROL_SOCKET,
  type VmDescription,
  type VmMetrics,
} from '../control/types.ts';
import { journalBeside, type EventJournal } from '../events.ts';
import { mountShares } from '../shares/mount.ts';
import { packageVersion } from '../../kvm/package-version.ts';
import type { StartOptions } from '../vms/lifecycle.ts';
import { parseVmIni } from '../vms/vm-ini.ts';
import { BASE, layerFile, RESUME, VM_INI } from '../vms/files.ts';
import { CRASHES } from '../vms/store.ts';
import { bootFilesOf } from './boot-files.ts';
import { enterLimits } from './cgroup.ts';
import { BoundedLog } from './bounded-log.ts';
import { ConsoleServer } from './console-server.ts';
import { serveExec } from './exec-stream.ts';
import { enterJail, prepareJail } from './jail.ts';
import { describeJail } from './jail-report.ts';
import { jailPaths } from './jail-paths.ts';
import { readIdentity } from './identity.ts';
import { PROCESS_LOCK, writeRecord, type ProcessRecord } from './record.ts';
import type { Tie } from './tie.ts';
import { wake } from './wake.ts';
import { networkOptionsOf, vmOptionsOf } from './vm-options.ts';

/** each of console and messages, in bytes */
const LOG_LIMIT = 8 * 1024 * 1024;
/** how often the guest's agent is looked for, in milliseconds */
const AGENT_POLL = 250;

/**
 * Runs the VM of a folder to its end. Sockets have names relative to the folder, which becomes the working directory:
 * a socket's path is short. Where it fails before the guest runs, this process is not in jail.
 * @param ready called once the VM runs and its sockets are there
 * @param tie to another process, with whose end the VM's has come
 * @throws what is wrong with its files, devices or the host, before `ready`
 */
export async function runVmProcess(
  folder: string,
  { jail: asked, tied = false }: StartOptions,
  ready: (vm: VmProcess) => void,
  tie?: Tie,
): Promise<VmExit> {
  process.chdir(folder);
  // Nothing that is made here is for others.
  process.umask(0o077);
  const lock = openSync(PROCESS_LOCK, 'a+', 0o600);
  lockOpenFile(lock, join(folder, PROCESS_LOCK), 'write');
  const settings = parseVmIni(readFileSync(VM_INI, 'utf8'), join(folder, VM_INI));
  mkdirSync('log', { recursive: true, mode: 0o700 });
  // Whoever had these sockets is gone: the lock is ours.
  rmSync('run', { recursive: true, force: true });
  mkdirSync('run', { mode: 0o700 });

  const messages = new BoundedLog(join('log', 'tsvm.log'), LOG_LIMIT);
  const log = (line: string): void => messages.write(`${new Date().toISOString()} ${line}\n`);
  const startedAt = Date.now();
  const consoleLog = new BoundedLog(join('log', 'console.log'), LOG_LIMIT);
  let life: ProcessRecord = {
    pid: process.pid,
    startedAt,
    version: packageVersion(),
    consoleFrom: consoleLog.size,
  };
  writeRecord('.', life);
  const name = basename(folder);
  const events = journalBeside(folder);
  events.open();
  try {
    const { cpuLimit, memoryLimit } = settings.vm;
    const group = enterLimits(name, { cpu: cpuLimit, memory: memoryLimit });
    if (group !== undefined) {
      life = { ...life, group };
      log(`limits: ${group}`);
    }
    const jailed = (asked ?? settings.vm.jail) === 'on';
    // The jail is closed when the guest is about to run. All that reads files of its until then is TypeScript.
    const networks = await Networks.open({
      networks: networkOptionsOf(settings.network, name),
      disks: [],
      identity: settings.vm.identity ?? name,
      keepers: jailed,
      log,
    });
    const boot = await bootFilesOf(settings);
    for (const note of boot.notes) log(note);
    const options = vmOptionsOf(settings, boot, {
      name,
      port: { name: AGENT_PORT, path: join('run', AGENT_SOCKET) },
      log,
    });
    const paths = jailed ? await jailPaths(folder, settings, options) : undefined;
    if (jailed) prepareJail();
    const beforeGuest = (): void => {
      const jail = paths === undefined ? 'off' : enterJail(paths);
      log(jail === 'off' ? 'jail: off' : `jail: ${describeJail(jail)}`);
      life = { ...life, jail };
      writeRecord('.', life);
    };
    const opened = { networks, kernel: await openKernel(options.kernel), beforeGuest };
    const resuming = existsSync(join(RESUME, STATE_FILE));
    // Names of memory files of an earlier life.
    rmSync(BASE, { recursive: true, force: true });
    // Others may go on, or have gone on, from the same: the guest is not to draw the same random numbers as they.
    const identity = readIdentity();
    // Clones may be many, and have their memory in common; one for a command is to be soon done.
    const prefetch = identity === undefined || tied;
    const restore = { folder: RESUME, keep: BASE, prefetch, generation: randomUUID() };
    const vm = await startVm({ ...options, ...(resuming && { restore }) }, opened);
    // From here on it goes another way: it cannot go on from there twice.
    if (resuming) rmSync(RESUME, { recursive: true, force: true });
    consoleLog.write(vm.console.tail());
    vm.console.onData((bytes) => consoleLog.write(bytes));
    if (vm.note !== undefined) log(vm.note);
    log(resuming ? 'goes on from where it was' : `started: ${options.kernel}`);

    const process_ = new VmProcess(
      folder,
      vm,
      startedAt,
      options.memory ?? 0,
      options.cpus ?? 1,
      options.kernel,
      events,
    );
    void tie?.lost.then(() => process_.stop('force'));
    const { agent, agentAnswered: answered } = process_;
    process_.woken = wake(agent, { resuming, identity, log, answered, exited: vm.exited });
    mountShares(vm, { agent: process_.agent, log });
    const control = await ControlServer.listen(join('run', CONTROL_SOCKET), process_);
    const console = await ConsoleServer.listen(join('run', CONSOLE_SOCKET), vm.console);
    events.add(name, 'started');
    const agentUp = setInterval(() => {
      if (vm.port(AGENT_PORT)?.guestOpen !== true) return;
      clearInterval(agentUp);
      events.add(name, 'agent');
    }, AGENT_POLL).unref();
    ready(process_);
    const exit = await vm.exited;
    clearInterval(agentUp);
    events.add(name, CRASHES.has(exit.reason) ? 'crashed' : 'stopped', exit.message);
    log(`ended: ${exit.reason}: ${exit.message}${exit.report === undefined ? '' : `\n${exit.report}`}`);
    writeRecord('.', { ...life, end: { at: Date.now(), ...exit } });
    await Promise.all([control.close(), console.close(), process_.agent[Symbol.asyncDispose]()]);
    return exit;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    log(`failed: ${message}`);
    writeRecord('.', { ...life, end: { at: Date.now(), reason: 'error', message } });
    throw error;
  } finally {
    rmSync('run', { recursive: true, force: true });
    rmSync(BASE, { recursive: true, force: true });
    messages.close();
    consoleLog.close();
    closeSync(lock);
  }
}

/** The guest's agent is asked to power off, too, after so many milliseconds. */
const BUTTON_ALONE = 3000;

/** What is said and done to a VM from outside, in its process. */
export class VmProcess implements ControlledVm {
  readonly vm: RunningVm;
  readonly agent = new AgentClient(join('run', AGENT_SOCKET));
  woken: Promise<void> = Promise.resolve();
  readonly #about: Omit<VmDescription, 'state' | 'boot'>;
  #agentAnsweredAt: number | undefined;
  #agentReadyAt: number | undefined;
  readonly #events: EventJournal;
  #state: VmDescription['state'] = 'running';

  constructor(
    folder: string,
    vm: RunningVm,
    startedAt: number,
    memory: number,
    cpus: number,
    kernel: string,
    events: EventJournal,
  ) {
    this.vm = vm;
    this.#events = events;
    const name = basename(folder);
    this.#about = { name, pid: process.pid, startedAt, memory, cpus, kernel, version: packageVersion() };
  }

  /** Has signals to this process stop the VM. */
  obeySignals(): void {
    process.on('SIGTERM', () => this.stop(this.#state === 'stopping' ? 'force' : 'request'));
    process.on('SIGINT', () => this.stop('force'));
    process.on('SIGHUP', () => undefined);
  }

  readonly describe = (): VmDescription => {
    const at = (time: number | undefined): number | null =>
      time === undefined ? null : performance.timeOrigin + time;
    return {
      ...this.#about,
      state: this.#state,
      boot: {
        process: performance.timeOrigin,
        entered: performance.timeOrigin + this.vm.timings.firstRun,
        agentOpened: at(this.vm.port(AGENT_PORT)?.guestOpenedAt),
        agentAnswered: at(this.#agentAnsweredAt),
        agentReady: at(this.#agentReadyAt),
      },
    };
  };

  readonly agentAnswered = (): void => {
    this.#agentAnsweredAt ??= performance.now();
  };

  readonly agentReady = (): void => {
    this.#agentReadyAt ??= performance.now();
  };

  readonly metrics: ControlledVm['metrics'] = () => {
    const { user, system } = process.cpuUsage();
    return {
      exits: Object.fromEntries(this.vm.exitCounts()),
      devices: this.vm.accessCounts().map((count) => ({ ...count })),
      disks: [...this.vm.disks],
      networks: this.vm.networks.map(({ queues }) => trafficOf(queues)),
      memory: {
        size: this.#about.memory,
        resident: process.memoryUsage.rss(),
        balloon: this.vm.balloon?.actual ?? null,
      },
      cpuTime: { user: user / 1e6, system: system / 1e6 },
    };
  };

  readonly stream: ControlledVm['stream'] = (client, head) => {
    void serveExec(this, client, head);
  };

  readonly paused = (paused: boolean): void => {
    this.#events.add(this.#about.name, paused ? 'paused' : 'resumed');
    if (this.#state !== 'stopping') this.#state = paused ? 'paused' : 'running';
  };

  readonly snapshot: NonNullable<ControlledVm['snapshot']> = async (request) => {
    const { folder, memory, live, quiesce, layers, stop } = request;
    const options = {
      folder,
      memory,
      live: live && !stop,
      stop,
      layers: layers.map(({ disk, layer }) => ({ disk, path: layerFile(layer) })),
    };
    if (!quiesce) return this.#snapshot(options);
    await this.agent.freeze();
    try {
      return await this.#snapshot(options);
    } finally {
      // One that has been saved is thawed when it goes on (wake.ts).
      if (!stop) await this.agent.thaw();
    }
  };

  async #snapshot(options: SnapshotOptions): Promise<SnapshotResult> {
    const result = await this.vm.snapshot(options);
    if (options.stop === true) {
      this.#state = 'stopping';
      void this.vm.stop();
    }
    return result;
  }

  readonly stop = (mode: 'request' | 'force'): void => {
    const wasPaused = this.#state === 'paused';
    this.#state = 'stopping';
    if (mode === 'force') {
      void this.vm.stop();
      return;
    }
    // A guest that stands still hears nothing.
    if (wasPaused) void this.vm.resume();
    this.vm.powerButton();
    // Nobody may listen for the button in the guest.
    if (this.#agentReadyAt === undefined) return;
    setTimeout(() => void this.agent.shutdown().catch(() => undefined), BUTTON_ALONE).unref();
  };
}

/** Of all queues of a card. */
function trafficOf(queues: readonly QueueTraffic[]): VmMetrics['networks'][number] {
  const sum = (of: (queue: QueueTraffic) => number): number =>
    queues.reduce((total, queue) => total + of(queue), 0);
  return {
    receivedFrames: sum(({ receivedFrames }) => receivedFrames),
    receivedBytes: sum(({ receivedBytes }) => receivedBytes),
    sentFrames: sum(({ sentFrames }) => sentFrames),
    sentBytes: sum(({ sentBytes }) => sentBytes),
  };
}
