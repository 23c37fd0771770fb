import { randomUUID } from 'node:crypto';
import { Board } from '../machine/board.ts';
import { startBootProcessor } from '../machine/processors.ts';
import { openKernel, type OpenedKernel } from '../boot/kernel-file.ts';
import { loadLinux, type LoadedKernel } from '../boot/load.ts';
import { e820Map, MAX_VCPUS, MIB } from '../boot/layout.ts';
import { openSource, type ByteSource } from '../boot/source.ts';
import { EXIT, exitName } from '../kvm/constants.ts';
import { openKvm, type Kvm } from '../kvm/system.ts';
import type { VcpuExit } from '../kvm/vcpu.ts';
import { describeExit, reportExit } from './report.ts';
import { ConsoleHost } from './console-host.ts';
import type { NetworkCard } from './network-types.ts';
import type { Networks } from './networks.ts';
import { Peripherals } from './peripherals.ts';
import type {
  AccessCount,
  BalloonControl,
  GuestPort,
  RunningVm,
  SerialPort,
  Share,
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

/** What a process opens before it goes to jail. */
export type Opened = { readonly networks?: Networks; readonly kernel?: OpenedKernel };

type Settings = Required<Omit<VmOptions, 'balloon' | 'identity' | 'vsock'>> &
  Pick<VmOptions, 'balloon' | 'identity' | 'vsock'>;

function settle(options: VmOptions): Settings {
  const { console = 'serial', balloon, identity, vsock } = options;
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
    log: options.log ?? (() => undefined),
  };
  const { memory, cpus } = settings;
  if (!Number.isSafeInteger(memory) || memory < LEAST_MEMORY || memory % PAGE !== 0) {
    throw new VmOptionError(`memory must be at least 32 MiB and whole pages of 4 KiB, not ${memory} bytes`);
  }
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MAX_VCPUS) {
    throw new VmOptionError(`a VM has 1 to ${MAX_VCPUS} vCPUs, not ${cpus}`);
  }
  return settings;
}

/**
 * Boots a kernel in a new VM of this process.
 * @param opened what of the options is open already: the VM's to close from here on
 * @throws VmOptionError, BootError (files), KvmError and KvmCapabilityError (host); nothing is left open then
 */
export async function startVm(options: VmOptions, opened: Opened = {}): Promise<RunningVm> {
  const settings = settle(options);
  const sources: ByteSource[] = [];
  let kvm: Kvm | undefined;
  let peripherals: Peripherals | undefined;
  try {
    kvm = openKvm();
    peripherals = await Peripherals.open(settings, opened.networks);
    const { source, note } =
      opened.kernel ?? (await openKernel(settings.kernel, { unpack: settings.unpackKernel }));
    sources.push(source);
    for (const path of settings.initrds) sources.push(openSource(path, 'initrd'));
    return new VirtualMachine(settings, kvm, sources, peripherals, note);
  } catch (error) {
    for (const source of sources) source.close();
    if (sources.length === 0) opened.kernel?.source.close();
    await (peripherals ?? opened.networks)?.close();
    kvm?.close();
    throw error;
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
  #loaded: LoadedKernel;
  /** kept over resets: it is the same machine */
  readonly #uuid = randomUUID();
  /** as they were at the end, once it has come */
  #accesses: AccessCount[] = [];
  #exits = new Map<string, number>();
  #ended = false;
  #paused = false;

  /** Boots at once. @throws what loading throws, with the board closed again */
  constructor(
    settings: Settings,
    kvm: Kvm,
    sources: readonly ByteSource[],
    peripherals: Peripherals,
    note: string | undefined,
  ) {
    this.#settings = settings;
    this.#peripherals = peripherals;
    this.#kvm = kvm;
    this.#sources = sources;
    if (note !== undefined) this.note = note;
    let resolveExited: (exit: VmExit) => void = () => undefined;
    this.exited = new Promise((resolve) => (resolveExited = resolve));
    this.#resolveExited = resolveExited;
    [this.#board, this.#loaded] = this.#boot();
    const kernelLoaded = performance.now();
    this.#run();
    this.timings = { kernelLoaded, firstRun: performance.now() };
  }

  get kernelFormat(): LoadedKernel['format'] {
    return this.#loaded.format;
  }

  get console(): SerialPort {
    return this.#peripherals.console ?? this.serial;
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

  /** A new board with the kernel loaded, all vCPUs at rest. */
  #boot(): [Board, LoadedKernel] {
    const { memory, cpus, cpu, cmdline } = this.#settings;
    const board: Board = new Board({
      kvm: this.#kvm,
      memory,
      cpus,
      cpu,
      uuid: this.#uuid,
      transport: this.#settings.transport,
      devices: this.#peripherals.devices(),
      report: this.#settings.log,
      serialOutput: (bytes) => this.serial.output(bytes),
      onPowerOff: () => this.#end('poweroff', 'the guest powered itself off'),
      onReset: () => this.#guestReset('reboot', 'the guest asked for a reset'),
      onPanic: () => this.#end('panic', "the guest's kernel panicked"),
    });
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
      board.vm.onExit = (exit) => this.#vcpuStopped(board, exit);
      board.vm.onDeviceError = (region, error) => this.#deviceFailed(region.name, error);
      return [board, loaded];
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
    this.serial.connect(undefined);
    old.close();
    try {
      [this.#board, this.#loaded] = this.#boot();
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
