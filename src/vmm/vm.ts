import { randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import { Board, type BoardOptions } from '../machine/board.ts';
import { startBootProcessor } from '../machine/processors.ts';
import { isUuid } from '../machine/uuid.ts';
import { openKernel, type OpenedKernel } from '../boot/kernel-file.ts';
import { loadLinux } from '../boot/load.ts';
import { e820Map, MAX_VCPUS, MIB } from '../boot/layout.ts';
import { openSource, type ByteSource } from '../boot/source.ts';
import { EXIT, exitName } from '../kvm/constants.ts';
import { openKvm, type Kvm } from '../kvm/system.ts';
import type { VcpuExit } from '../kvm/vcpu.ts';
import { describeExit, reportExit } from './report.ts';
import { DeviceStateError, forPerson } from '../kvm/device-state.ts';
import { SnapshotError } from './snapshot/error.ts';
import { openSnapshot, type OpenedSnapshot } from './snapshot/open.ts';
import type { MemoryBase } from './snapshot/memory-file.ts';
import { takeSnapshot } from './snapshot/take.ts';
import { packageVersion } from '../kvm/package-version.ts';
import { ConsoleHost } from './console-host.ts';
import type { NetworkCard } from './network-types.ts';
import type { Networks } from './networks.ts';
import { Peripherals } from './peripherals.ts';
import type {
  AccessCount,
  BalloonControl,
  DiskTraffic,
  GuestPort,
  RunningVm,
  SerialPort,
  Share,
  SnapshotOptions,
  SnapshotResult,
  VmExit,
  VmExitReason,
  VmOptions,
} from './types.ts';

const DEFAULT_MEMORY = 512 * MIB;
const LEAST_MEMORY = 32 * MIB;
const PAGE = 4096;

/** A VM option that cannot be. */
export class VmOptionError extends RangeError {
  override readonly name = 'VmOptionError';
  readonly code = 'EOPTION';
}

/** What a process has to do with the start of its VM. */
export type Opened = {
  readonly networks?: Networks;
  readonly kernel?: OpenedKernel;
  /** called when all is open and loaded, and before the guest runs */
  readonly beforeGuest?: () => void;
};

type Settings = Required<Omit<VmOptions, 'balloon' | 'identity' | 'vsock' | 'restore'>> &
  Pick<VmOptions, 'balloon' | 'identity' | 'vsock' | 'restore'>;

function settle(options: VmOptions): Settings {
  const { console = 'serial', balloon, identity, vsock, restore } = options;
  const settings: Settings = {
    kernel: options.kernel,
    initrds: options.initrds ?? [],
    cmdline: options.cmdline ?? `console=${console === 'serial' ? 'ttyS0' : console}`,
    memory: options.memory ?? DEFAULT_MEMORY,
    cpus: options.cpus ?? 1,
    cpu: options.cpu ?? '',
    unpackKernel: options.unpackKernel ?? true,
    noReboot: options.noReboot ?? false,
    transport: options.transport ?? 'pci',
    disks: options.disks ?? [],
    console,
    networks: options.networks ?? [],
    ports: options.ports ?? [],
    shares: options.shares ?? [],
    rng: options.rng ?? false,
    ...(balloon !== undefined && { balloon }),
    ...(identity !== undefined && { identity }),
    ...(vsock !== undefined && { vsock }),
    ...(restore !== undefined && { restore }),
    log: options.log ?? (() => undefined),
  };
  const { memory, cpus } = settings;
  if (!Number.isSafeInteger(memory) || memory < LEAST_MEMORY || memory % PAGE !== 0) {
    throw new VmOptionError(`memory must be at least 32 MiB and whole pages of 4 KiB, not ${memory} bytes`);
  }
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MAX_VCPUS) {
    throw new VmOptionError(`a VM has 1 to ${MAX_VCPUS} vCPUs, not ${cpus}`);
  }
  if (restore?.generation !== undefined && !isUuid(restore.generation))
    throw new VmOptionError(`a VM generation id is a UUID, not '${restore.generation}'`);
  return settings;
}

/**
 * Boots a kernel in a new VM of this process, or has one go on from a snapshot.
 * @param opened what is open in it is the VM's to close from here on
 * @throws VmOptionError, BootError (files), SnapshotError, KvmError and KvmCapabilityError (host); nothing is left open
 * then
 */
export async function startVm(options: VmOptions, opened: Opened = {}): Promise<RunningVm> {
  const settings = settle(options);
  const sources: ByteSource[] = [];
  let kvm: Kvm | undefined;
  let peripherals: Peripherals | undefined;
  let snapshot: OpenedSnapshot | undefined;
  try {
    kvm = openKvm();
    if (settings.restore !== undefined) snapshot = openSnapshot(settings.restore, settings);
    peripherals = await Peripherals.open(settings, opened.networks);
    const { source, note } =
      opened.kernel ?? (await openKernel(settings.kernel, { unpack: settings.unpackKernel }));
    sources.push(source);
    for (const path of settings.initrds) sources.push(openSource(path, 'initrd'));
    await snapshot?.ready;
    return new VirtualMachine(settings, kvm, sources, peripherals, note, snapshot, opened.beforeGuest);
  } catch (error) {
    await snapshot?.ready.catch(() => undefined);
    snapshot?.touched.close();
    snapshot?.ram.close();
    for (const source of sources) source.close();
    if (sources.length === 0) opened.kernel?.source.close();
    await (peripherals ?? opened.networks)?.close();
    kvm?.close();
    throw error;
  }
}

/** What is left for later then takes little time. Whatever fails here will fail there. */
async function syncFiles(paths: readonly (string | undefined)[]): Promise<void> {
  for (const path of paths) {
    if (path === undefined) continue;
    const file = await open(path).catch(() => undefined);
    await file?.datasync().catch(() => undefined);
    await file?.close();
  }
}

class VirtualMachine implements RunningVm {
  readonly serial = new ConsoleHost();
  readonly exited: Promise<VmExit>;
  readonly timings: { kernelLoaded: number; firstRun: number };
  readonly note?: string;
  readonly #settings: Settings;
  readonly #kvm: Kvm;
  /** the kernel, then the initrds; open for as long as the VM may boot again */
  readonly #sources: readonly ByteSource[];
  /** what is on the host's end of its devices; outlives the boards */
  readonly #peripherals: Peripherals;
  readonly #resolveExited: (exit: VmExit) => void;
  #board: Board;
  /** kept over resets: it is the same machine */
  readonly #uuid: string;
  #generation: string = randomUUID();
  /** what RAM lies on, where it is known */
  #base: MemoryBase | undefined;
  #snapshot: Promise<unknown> = Promise.resolve();
  /** as they were at the end, once it has come */
  #accesses: AccessCount[] = [];
  #exits = new Map<string, number>();
  #ended = false;
  #paused = false;

  /** Runs at once. @throws what loading or restoring throws, with the board closed again */
  constructor(
    settings: Settings,
    kvm: Kvm,
    sources: readonly ByteSource[],
    peripherals: Peripherals,
    note: string | undefined,
    snapshot: OpenedSnapshot | undefined,
    beforeGuest: (() => void) | undefined,
  ) {
    this.#settings = settings;
    this.#uuid = snapshot?.state.uuid ?? randomUUID();
    this.#peripherals = peripherals;
    this.#kvm = kvm;
    this.#sources = sources;
    if (note !== undefined) this.note = note;
    let resolveExited: (exit: VmExit) => void = () => undefined;
    this.exited = new Promise((resolve) => (resolveExited = resolve));
    this.#resolveExited = resolveExited;
    if (snapshot === undefined) this.#board = this.#boot();
    else {
      this.#board = this.#restore(snapshot);
      this.#base = snapshot.base;
    }
    const kernelLoaded = performance.now();
    try {
      beforeGuest?.();
    } catch (error) {
      this.#board.close();
      throw error;
    }
    this.#run();
    if (snapshot !== undefined) {
      snapshot.touched.watch(snapshot.ram);
      void this.exited.then(() => snapshot.touched.close());
    }
    this.timings = { kernelLoaded, firstRun: performance.now() };
  }

  get console(): SerialPort {
    return this.#peripherals.console ?? this.serial;
  }

  get disks(): readonly DiskTraffic[] {
    return this.#peripherals.disks;
  }

  get networks(): readonly NetworkCard[] {
    return this.#peripherals.networks.cards;
  }

  setLink(index: number, up: boolean): void {
    this.#peripherals.networks.setLink(index, up);
  }

  get shares(): readonly Share[] {
    return this.#peripherals.shares;
  }

  port(name: string): GuestPort | undefined {
    return this.#peripherals.port(name);
  }

  get balloon(): BalloonControl | undefined {
    return this.#peripherals.balloon;
  }

  resizeConsole(columns: number, rows: number): void {
    this.#peripherals.resizeConsole(columns, rows);
  }

  async resizeDisk(index: number, size: number): Promise<void> {
    await this.#peripherals.resizeDisk(index, size);
  }

  newGeneration(): void {
    if (this.#ended) return;
    this.#generation = randomUUID();
    this.#board.generation.change(this.#generation);
  }

  powerButton(): void {
    if (!this.#ended) this.#board.power.powerButton();
  }

  ctrlAltDel(): void {
    if (!this.#ended) this.#board.keyboard.ctrlAltDel();
  }

  reset(): Promise<void> {
    if (!this.#ended) this.#restart();
    return Promise.resolve();
  }

  async pause(): Promise<void> {
    if (this.#ended || this.#paused) return;
    this.#paused = true;
    const board = this.#board;
    await board.pause();
  }

  resume(): Promise<void> {
    if (!this.#ended && this.#paused) {
      this.#paused = false;
      this.#board.resume();
    }
    return Promise.resolve();
  }

  snapshot(options: SnapshotOptions): Promise<SnapshotResult> {
    const taken = this.#snapshot.then(() => this.#take(options));
    this.#snapshot = taken.catch(() => undefined);
    return taken;
  }

  async stop(): Promise<void> {
    this.#end('stopped', 'the VM was stopped');
    await this.exited;
  }

  accessCounts(): AccessCount[] {
    if (!this.#ended)
      this.#accesses = this.#board.vm.counters().map(({ name, ...counts }) => ({ device: name, ...counts }));
    return this.#accesses;
  }

  exitCounts(): Map<string, number> {
    if (!this.#ended) {
      this.#exits = new Map();
      for (const vcpu of this.#board.vm.vcpus) {
        for (const [reason, count] of vcpu.exitCounts()) {
          const name = exitName(reason);
          this.#exits.set(name, (this.#exits.get(name) ?? 0) + count);
        }
      }
    }
    return this.#exits;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #boardOptions(): BoardOptions {
    const { memory, cpus, cpu, transport, log } = this.#settings;
    return {
      kvm: this.#kvm,
      memory,
      cpus,
      cpu,
      uuid: this.#uuid,
      generation: this.#generation,
      transport,
      devices: this.#peripherals.devices(),
      report: log,
      serialOutput: (bytes) => this.serial.output(bytes),
      onPowerOff: () => this.#end('poweroff', 'the guest powered itself off'),
      onReset: () => this.#guestReset('reboot', 'the guest asked for a reset'),
      onPanic: () => this.#end('panic', "the guest's kernel panicked"),
    };
  }

  #watch(board: Board): void {
    board.vm.onExit = (exit) => this.#vcpuStopped(board, exit);
    board.vm.onDeviceError = (region, error) => this.#deviceFailed(region.name, error);
  }

  /** A board as it was saved, all vCPUs at rest. @throws SnapshotError */
  #restore({ state, ram }: OpenedSnapshot): Board {
    const options = this.#boardOptions();
    const { folder, generation } = this.#settings.restore!;
    const devices = options.devices.map(({ name }) => name);
    if (devices.join() !== state.devices.join())
      throw new SnapshotError(
        folder,
        'EFOREIGN',
        `is of a machine with other devices: ${forPerson(state.devices.join(', '))}, and not ${devices.join(', ')}`,
        'give the VM the settings that it had, or start it without',
      );
    try {
      const board = new Board({ ...options, restore: { state: state.board, ram } });
      this.#watch(board);
      if (generation !== undefined) board.generation.change((this.#generation = generation));
      this.#peripherals.networks.announce();
      return board;
    } catch (error) {
      if (!(error instanceof DeviceStateError)) throw error;
      throw new SnapshotError(folder, 'EHOST', error.message, 'start the VM without it');
    }
  }

  async #take(options: SnapshotOptions): Promise<SnapshotResult> {
    const board = this.#board;
    const check = (): void => {
      if (this.#ended || board !== this.#board)
        throw new SnapshotError(options.folder, 'EENDED', 'the VM has ended, or was reset');
    };
    check();
    const wasPaused = this.#paused;
    const { stopMs, memoryBytes } = await takeSnapshot(
      {
        board,
        about: {
          tsvm: packageVersion(),
          uuid: this.#uuid,
          transport: this.#settings.transport,
          devices: this.#peripherals.deviceNames,
        },
        base: this.#base,
        settleDisks: () =>
          syncFiles(options.layers?.map(({ disk }) => this.#settings.disks[disk]?.path) ?? []),
        pause: async () => {
          await this.pause();
          check();
        },
        resume: () => {
          if (!wasPaused && board === this.#board) void this.resume();
        },
        freezeDisks: async () => {
          for (const { disk, path } of options.layers ?? []) await this.#peripherals.freezeDisk(disk, path);
          check();
        },
      },
      options,
    );
    return { stopMs, memoryBytes };
  }

  /** A new board with the kernel loaded, all vCPUs at rest. */
  #boot(): Board {
    const { memory, cmdline } = this.#settings;
    const board: Board = new Board(this.#boardOptions());
    try {
      const [kernel, ...initrds] = this.#sources;
      const loaded = loadLinux(board.ram.memory, {
        kernel: kernel!,
        initrds,
        cmdline: [cmdline, ...board.kernelParameters].join(' '),
        rsdp: board.rsdp,
        e820: e820Map(memory),
      });
      startBootProcessor(board.vm.vcpus[0]!, loaded.entry);
      this.#watch(board);
      return board;
    } catch (error) {
      board.close();
      throw error;
    }
  }

  #run(): void {
    this.serial.connect(this.#board.serial);
    this.#paused = false;
    this.#board.resume();
  }

  /** The guest asked for a reset, or crashed in a way that resets a PC. */
  #guestReset(reason: VmExitReason, message: string): void {
    if (this.#settings.noReboot) this.#end(reason, message);
    else this.#restart();
  }

  /** A PC's reset as a new board: every device, register and interrupt controller starts as made. */
  #restart(): void {
    const old = this.#board;
    this.#base = undefined;
    this.serial.connect(undefined);
    old.close();
    try {
      this.#board = this.#boot();
      this.#run();
    } catch (error) {
      this.#finish(
        'error',
        `the VM could not be reset: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }

  #vcpuStopped(board: Board, exit: VcpuExit): void {
    if (this.#ended || board !== this.#board) return;
    const message = describeExit(exit);
    if (exit.reason === EXIT.shutdown) {
      this.#guestReset('triple-fault', message);
      return;
    }
    const report = reportExit(exit, board.vm.vcpus[exit.vcpu]!, board.ram.memory);
    this.#end('error', message, report);
  }

  #deviceFailed(device: string, error: unknown): void {
    const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#end('error', `a bug of tsvm: the device ${device} failed`, detail);
  }

  #end(reason: VmExitReason, message: string, report?: string): void {
    if (this.#ended) return;
    this.accessCounts();
    this.exitCounts();
    this.#ended = true;
    // Its last output comes out with it.
    this.#board.close();
    this.#finish(reason, message, report);
  }

  #finish(reason: VmExitReason, message: string, report?: string): void {
    this.#ended = true;
    this.serial.close();
    for (const source of this.#sources) source.close();
    this.#kvm.close();
    const exit = { reason, message, ...(report !== undefined && { report }) };
    // What the guest has flushed is on the disk before anybody hears that it has ended.
    this.#peripherals.close().then(
      () => this.#resolveExited(exit),
      (error: unknown) => {
        this.#settings.log(
          `closing the VM's devices failed: ${error instanceof Error ? error.message : String(error)}`,
        );
        this.#resolveExited(exit);
      },
    );
  }
}
