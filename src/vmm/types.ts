import type { MemoryStatistics } from '../devices/balloon/statistics.ts';
import type { DiskTraffic } from '../devices/block/traffic.ts';
import type { FsCache } from '../devices/fs/folder.ts';
import type { VirtioTransport } from '../machine/virtio-bus.ts';
import type { Duplex } from 'node:stream';
import type { DiskCache } from '../storage/disk.ts';
import type { DiskFormat } from '../storage/open.ts';
import type { ChainPolicy } from '../storage/qcow2/chain.ts';
import type { NetworkCard, NetworkOptions } from './network-types.ts';

/** A disk of a VM: `/dev/vda` is the first one. */
export type DiskOptions = {
  readonly path: string;
  /**
   * Given by the owner and never guessed: a guest could write the head of another format into a raw disk. Default
   * `raw`, but then a file that begins like a qcow2 image is refused
   */
  readonly format?: DiskFormat;
  /** what files below a qcow2 image may be used; default: those in the folder of the image that names them */
  readonly backing?: ChainPolicy;
  /** default false */
  readonly readOnly?: boolean;
  /** default `writeback` */
  readonly cache?: DiskCache;
  /** at most 20 characters, what the guest sees as the disk's serial number */
  readonly serial?: string;
  /** logical block size in bytes; default 512 */
  readonly blockSize?: 512 | 4096;
  /** request queues, 1 to 16; default one a vCPU, at most 4 */
  readonly queues?: number;
  /** limits of what the guest may do in a second, averaged; a tenth of a second's worth may come at once */
  readonly rate?: { readonly bytesPerSecond?: number; readonly operationsPerSecond?: number };
};

/** A balloon, by which the host takes memory back. */
export type BalloonOptions = {
  /** what it holds from the start on, in bytes; default 0 */
  readonly size?: number;
  /** the guest takes memory back from it before it kills processes; default true */
  readonly deflateOnOom?: boolean;
  /** the guest tells of pages that it has freed, and the host takes them back; default true */
  readonly freePageReporting?: boolean;
  /** seconds between reports of the guest's memory use, 0 for none; default 0 */
  readonly statisticsInterval?: number;
};

/** A named channel between a program in the guest (`/dev/virtio-ports/NAME`) and a unix socket on the host. */
export type PortOptions = {
  readonly name: string;
  /** of the socket, which is made and removed with the VM; default none: {@link RunningVm.port} reaches it */
  readonly path?: string;
};

/** A folder of the host that the guest mounts: `mount -t virtiofs TAG /mnt`. */
export type ShareOptions = {
  /** of the folder on the host */
  readonly path: string;
  /** where the guest is to have it, an absolute path; default: wherever the guest mounts it itself */
  readonly guest?: string;
  /** by which the guest mounts it, 1 to 36 bytes; default: made of `guest`, such as `mnt-src` of `/mnt/src` */
  readonly tag?: string;
  /** default false */
  readonly readOnly?: boolean;
  /** how long the guest trusts what it knows; default `auto`, a second */
  readonly cache?: FsCache;
  /**
   * Who in the guest owns the files of the user who runs the VM; default 0. Where that is root, and neither is given,
   * host and guest have the same users.
   */
  readonly uid?: number;
  readonly gid?: number;
};

/** Stream sockets between programs of the guest and of the host (AF_VSOCK), by Firecracker's convention. */
export type VsockOptions = {
  /**
   * of a unix socket for programs that connect to the guest, made and removed with the VM; those that the guest
   * connects to listen on `PATH_PORT`. At most 96 bytes
   */
  readonly path: string;
  /** the guest's address, 3 to 2^32 - 2; default 3 */
  readonly cid?: number;
};

/** What a VM is made of. Everything is checked before any resource is opened. */
export type VmOptions = {
  /** path of a bzImage or vmlinux, packed or not; recognised by content */
  readonly kernel: string;
  /** paths of initial RAM disks; several are concatenated in order */
  readonly initrds?: readonly string[];
  /** kernel command line; default `console=ttyS0`, or `console=hvc0` where that is the console */
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
  /** how the guest reaches its virtio devices; default `pci` */
  readonly transport?: VirtioTransport;
  readonly disks?: readonly DiskOptions[];
  /** what {@link RunningVm.console} is: the serial port, or a virtio console (`hvc0`); default `serial` */
  readonly console?: 'serial' | 'hvc0';
  /** network cards; default none */
  readonly networks?: readonly NetworkOptions[];
  /**
   * What tells this VM from all others on its networks, such as its name: its MAC addresses are made of it. Default:
   * the path of the first disk that it writes to; without one they are others at each start.
   */
  readonly identity?: string;
  /** named channels to programs in the guest */
  readonly ports?: readonly PortOptions[];
  /** default none */
  readonly vsock?: VsockOptions;
  /** instead of a boot; all else is to be as it was when the snapshot was taken. The kernel is for resets */
  readonly restore?: RestoreOptions;
  /** folders of the host */
  readonly shares?: readonly ShareOptions[];
  /** a virtio source of random numbers; default false */
  readonly rng?: boolean;
  /** default none */
  readonly balloon?: BalloonOptions;
  /** takes lines about what went wrong with a device while the VM runs; default: they are dropped */
  readonly log?: (line: string) => void;
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

/** A console of a VM, or another stream of bytes: what the guest says, and what it hears. */
export type SerialPort = {
  /** Calls `listener` with all output from now on; returns what ends that. The bytes are the listener's to keep. */
  onData(listener: (bytes: Uint8Array) => void): () => void;
  /** Queues input for the guest; resolves once the guest's FIFO has taken all of it. */
  write(bytes: Uint8Array | string): Promise<void>;
  /** the last output, at most 64 KiB, decoded as UTF-8 */
  tail(lines?: number): string;
};

export type { DiskTraffic, MemoryStatistics };

/** How the host takes memory back from a running guest. */
export type BalloonControl = {
  /** what the balloon is to hold, in bytes */
  readonly target: number;
  /** what it holds */
  readonly actual: number;
  /** Sets the target, in bytes; the guest follows as it can. @throws RangeError above the guest's memory */
  resize(size: number): void;
  /** Asks the guest; undefined where it has no driver, or does not answer within `timeout` milliseconds. */
  statistics(timeout?: number): Promise<MemoryStatistics | undefined>;
};

/** A named port of a VM, for one user at a time: a client of its socket, or of this. */
export type GuestPort = {
  /** whether somebody has it open here */
  readonly isOpen: boolean;
  /** whether a program in the guest has it open */
  readonly guestOpen: boolean;
  /** when one has opened it first, in milliseconds of `performance.now()` */
  readonly guestOpenedAt: number | undefined;
  /** Opens it until the stream is destroyed. @throws PortBusyError where it is open */
  open(): Duplex;
};

/** A folder that is shared, by the tag that the guest mounts it by. */
export type Share = ShareOptions & { readonly tag: string };

/** What a machine goes on from. */
export type RestoreOptions = {
  /** of a snapshot with memory */
  readonly folder: string;
  /**
   * a folder on the same file system, made where it is not there, for names of memory files: the next snapshot has
   * what has changed since alone. Default: it has all
   */
  readonly keep?: string;
  /**
   * has what the first guest that went on from there touched in memory of its own, in huge pages where there are any,
   * before this one runs: it is sooner done with what it was about to do, and has that in common with no other. Default
   * false
   */
  readonly prefetch?: boolean;
  /** a VM generation id, a UUID: the guest is told before it runs that it goes on as another machine; default: the one that it had */
  readonly generation?: string;
};

/** A snapshot to be taken. */
export type SnapshotOptions = {
  /** is there already, on a file system with room for what the guest uses of its memory */
  readonly folder: string;
  /** RAM, processors and devices too; default true */
  readonly memory?: boolean;
  /** the guest goes on while its memory is written, which may take as much memory again; default false */
  readonly live?: boolean;
  /** the VM does not go on, and is to be stopped; default false */
  readonly stop?: boolean;
  /** disks that are frozen: index of {@link VmOptions.disks}, and the path that the file gets; default none */
  readonly layers?: readonly { readonly disk: number; readonly path: string }[];
};

export type SnapshotResult = {
  /** how long the guest stood still, in milliseconds */
  readonly stopMs: number;
  /** what was written of memory, in bytes */
  readonly memoryBytes: number;
};

/** A machine that has been started, as the library and the CLI hold it. */
export type RunningVm = AsyncDisposable & {
  /** COM1 */
  readonly serial: SerialPort;
  /** what {@link VmOptions.console} says: COM1 or hvc0 */
  readonly console: SerialPort;
  /** Tells a virtio console the size of its terminal, in characters; nothing to do for a serial one. */
  resizeConsole(columns: number, rows: number): void;
  /** the balloon, where there is one */
  readonly balloon: BalloonControl | undefined;
  /** A port of {@link VmOptions.ports}, by its name. */
  port(name: string): GuestPort | undefined;
  /** what the disks have done, in the order of {@link VmOptions.disks}, since the last boot */
  readonly disks: readonly DiskTraffic[];
  /** the network cards, in the order of {@link VmOptions.networks}, with their traffic by now */
  readonly networks: readonly NetworkCard[];
  /**
   * Plugs the cable of a network card in, or pulls it out.
   * @param index of {@link VmOptions.networks}
   * @throws RangeError where there is no such card
   */
  setLink(index: number, up: boolean): void;
  /** the shared folders, all with a tag */
  readonly shares: readonly Share[];
  /**
   * Grows or shrinks a disk, and tells the guest.
   * @param index of {@link VmOptions.disks}
   * @param size in bytes, a multiple of 512
   * @throws StorageError with the old size intact, RangeError for an index or size that cannot be
   */
  resizeDisk(index: number, size: number): Promise<void>;
  /** why a kernel that was to be unpacked on the host was not, where so: one line */
  readonly note?: string;
  /** times in milliseconds since the process started (`performance.now()`) */
  readonly timings: { readonly kernelLoaded: number; readonly firstRun: number };
  /** resolves when the VM has ended, however; never rejects */
  readonly exited: Promise<VmExit>;
  /**
   * Gives the guest another VM generation id and tells it so, as where it runs on in a copy: Linux (5.18 and later)
   * then has other random numbers.
   */
  newGeneration(): void;
  /** Presses the ACPI power button. */
  powerButton(): void;
  /** Types Ctrl-Alt-Del on the keyboard. */
  ctrlAltDel(): void;
  /** Resets the machine: it boots again in the same process, whatever `noReboot` says. */
  reset(): Promise<void>;
  /** Stops all vCPUs at a clean point. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /**
   * Takes a snapshot; one at a time. A paused VM stays so.
   * @throws SnapshotError, StorageError, KvmError: the VM goes on as before
   */
  snapshot(options: SnapshotOptions): Promise<SnapshotResult>;
  /** Guest accesses by device since the last boot, and how many of them made a vCPU wait for JavaScript. */
  accessCounts(): readonly AccessCount[];
  /** Exits of all vCPUs from the guest since the last boot, by reason. */
  exitCounts(): ReadonlyMap<string, number>;
  /** Ends the VM at once and frees all it holds. May be called again. */
  stop(): Promise<void>;
};
