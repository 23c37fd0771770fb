import type { KernelFormat } from '../boot/types.ts';

/** What a VM is made of. Everything is checked before any resource is opened. */
export type VmOptions = {
  /** path of a bzImage or vmlinux, packed or not; recognised by content */
  readonly kernel: string;
  /** paths of initial RAM disks; several are concatenated in order */
  readonly initrds?: readonly string[];
  /** kernel command line; default `console=ttyS0` */
  readonly cmdline?: string;
  /** guest RAM in bytes, a multiple of 4 KiB, at least 32 MiB; default 512 MiB */
  readonly memory?: number;
  /** 1 to 32 virtual CPUs; default 1 */
  readonly cpus?: number;
  /** CPU features added and masked by name: `+avx2,-rdrand` */
  readonly cpu?: string;
  /** unpack a kernel packed in a bzImage on the host, once, and boot the cached vmlinux; default true */
  readonly unpackKernel?: boolean;
  /** end the VM where the guest asks for a reset, instead of booting it again; default false */
  readonly noReboot?: boolean;
};

/** Why a VM ended. */
export type VmExitReason =
  /** the guest powered itself off (ACPI S5) */
  | 'poweroff'
  /** the guest asked for a reset and `noReboot` is set */
  | 'reboot'
  /** a vCPU shut down on a triple fault and `noReboot` is set */
  | 'triple-fault'
  /** the guest's kernel reported a panic (pvpanic) */
  | 'panic'
  /** {@link Vm.stop} was called */
  | 'stopped'
  /** KVM could not go on: internal error, failed entry; see `report` */
  | 'error';

export type VmExit = {
  readonly reason: VmExitReason;
  /** one line for a person */
  readonly message: string;
  /** registers, code bytes and page-table walk of the vCPU concerned, where there is one to blame */
  readonly report?: string;
};

/** Accesses of the guest to one device's registers. */
export type AccessCount = {
  readonly device: string;
  readonly reads: number;
  readonly writes: number;
  readonly waits: number;
};

/** The console of a VM: what COM1 says, and what it hears. */
export type SerialPort = {
  /** Calls `listener` with all output from now on; returns what ends that. The bytes are the listener's to keep. */
  onData(listener: (bytes: Uint8Array) => void): () => void;
  /** Queues input for the guest; resolves once the guest's FIFO has taken all of it. */
  write(bytes: Uint8Array | string): Promise<void>;
  /** the last output, at most 64 KiB, decoded as UTF-8 */
  tail(lines?: number): string;
};

/** A machine that has been started, as the library and the CLI hold it. */
export type RunningVm = AsyncDisposable & {
  readonly serial: SerialPort;
  /** what was loaded */
  readonly kernelFormat: KernelFormat;
  /** why a kernel that was to be unpacked on the host was not, where so: one line */
  readonly note?: string;
  /** times in milliseconds since the process started (`performance.now()`) */
  readonly timings: { readonly kernelLoaded: number; readonly firstRun: number };
  /** resolves when the VM has ended, however; never rejects */
  readonly exited: Promise<VmExit>;
  /** Presses the ACPI power button. */
  powerButton(): void;
  /** Types Ctrl-Alt-Del on the keyboard. */
  ctrlAltDel(): void;
  /** Resets the machine: it boots again in the same process, whatever `noReboot` says. */
  reset(): Promise<void>;
  /** Stops all vCPUs at a clean point. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Guest accesses by device since the last boot, and how many of them made a vCPU wait for JavaScript. */
  accessCounts(): readonly AccessCount[];
  /** Exits of all vCPUs from the guest since the last boot, by reason. */
  exitCounts(): ReadonlyMap<string, number>;
  /** Ends the VM at once and frees all it holds. May be called again. */
  stop(): Promise<void>;
};
