/**
 * The addon's face as types, and how it is found. Nothing outside src/kvm imports this file.
 * native/addon.cc has the same list in C++.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { RegionSpace } from './bus.ts';
import { KvmError } from './errors.ts';
import { packageRoot } from './package-root.ts';

export type NativeCounterFd = {
  readonly fd: number;
  onEvent?: (count: number) => void;
  watch(): void;
  unwatch(): void;
  drain(): number;
  close(): void;
};

export type NativeEventFd = NativeCounterFd & { signal(): void };

export type NativeTimer = NativeCounterFd & {
  /** in nanoseconds; a delay of 0 disarms */
  arm(delay: number, interval?: number): void;
};

export type HugePages = 'none' | 'transparent' | '2M' | '1G';

export type NativeMemoryOptions = { size: number; hugePages: HugePages } & (
  | { backing: 'anonymous' }
  | { backing: 'memfd' }
  | { backing: 'file'; path: string; shared: boolean; offset: number }
);

export type NativeMemory = {
  readonly size: number;
  /** -1 for anonymous memory */
  readonly fd: number;
  window(offset: number, length: number): ArrayBuffer;
  /** Takes `count` pairs of offset and length, all of them whole pages. */
  discard(ranges: Float64Array, count: number): void;
  mapOver(path: string, ranges: Float64Array, count: number): void;
  /** Puts copies of what `source` has, with the same contents, in place of `count` ranges. */
  prefetch(source: NativeMemory, ranges: Float64Array, count: number): Promise<void>;
  /** Blocks, as pairs of offset and length, that have at least so many pages in the process's page tables. */
  touched(pagemap: number, block: number, least: number): Float64Array;
  close(): void;
};

export type NativeMemoryImage = {
  extents(): Float64Array;
  write(fd: number, child: boolean): Promise<number>;
};

export type NativeKvm = {
  apiVersion(): number;
  checkExtension(extension: number): number;
  supportedCpuid(): Uint8Array;
  msrIndices(): Uint32Array;
  close(): void;
};

export type VcpuStateName =
  'regs' | 'sregs' | 'fpu' | 'xcrs' | 'debugregs' | 'lapic' | 'mpState' | 'events' | 'xsave';

export type NativeVcpu = {
  readonly parked: boolean;
  resume(): void;
  requestPause(): void;
  getState(name: VcpuStateName): Uint8Array;
  setState(name: VcpuStateName, bytes: Uint8Array): void;
  getMsrs(indices: Uint32Array): BigUint64Array;
  setMsrs(indices: Uint32Array, values: BigUint64Array): number;
  getCpuid(): Uint8Array;
  setCpuid(cpuid: Uint8Array): void;
  translate(address: bigint): number | undefined;
  control(request: 'nmi' | 'kvmclockPaused' | 'tscKhz'): number;
  control(request: 'setTscKhz', kHz: number): number;
  /** kvmclock in nanoseconds, and the vCPU's TSC at the same moment */
  clockAndTsc(): BigUint64Array;
  /** undefined where the kernel does not tell */
  tscOffset(): bigint | undefined;
  /** @param offset from 0 to 2^64 - 1: sums wrap */
  setTscOffset(offset: bigint): void;
  exitCounts(): Float64Array;
};

export type VmStateName = 'clock' | 'pit2' | 'irqchip';

export type NativeVm = {
  onPosted?: (count: number) => void;
  onTrapRead?: (region: number, offset: number, size: number, value: number) => number;
  onTrapWrite?: (region: number, offset: number, size: number, value: number) => void;
  onVcpuEvent?: (
    vcpu: number,
    kind: 'paused' | 'exit',
    reason: number,
    errno: number,
    detail: Uint8Array,
  ) => void;
  checkExtension(extension: number): number;
  enableCapability(capability: number, ...args: number[]): void;
  setup(options: { identityMapAddress: number; tssAddress: number; irqchip: boolean; pit: boolean }): void;
  setMemory(options: {
    slot: number;
    address: number;
    size: number;
    memory?: NativeMemory;
    offset?: number;
    readOnly?: boolean;
    logDirty?: boolean;
  }): void;
  dirtyLog(slot: number): Uint8Array;
  irqfd(options: { fd: number; gsi: number; resampleFd?: number; remove?: boolean }): void;
  ioeventfd(options: {
    fd: number;
    space: 'pio' | 'mmio';
    address: number;
    size: number;
    datamatch?: number;
    remove?: boolean;
  }): void;
  irqLine(gsi: number, level: boolean): void;
  setRouting(routing: Uint8Array): void;
  signalMsi(addressLow: number, addressHigh: number, data: number): boolean;
  getState(name: VmStateName, chip?: number): Uint8Array;
  setState(name: VmStateName, bytes: Uint8Array): void;
  addRegion(options: {
    space: RegionSpace;
    base: number;
    size: number;
    reads: Uint8Array;
    writes: Uint8Array;
    counterHz: number;
    counterBits: number;
    ownOrder: boolean;
    clears: number;
    window?: {
      indexOffset: number;
      indexSize: number;
      dataOffset: number;
      dataSize: number;
      space: RegionSpace;
      base: number;
      matchMask: number;
      matchValue: number;
      /** pairs of mask and shift */
      fields: Uint32Array;
    };
  }): { id: number; shadow?: ArrayBuffer; takes?: ArrayBuffer };
  removeRegion(id: number): void;
  index(id: number, value?: number): number;
  counter(id: number, value?: number): number;
  lease(id: number, microseconds: number): void;
  counters(): Float64Array;
  createVcpu(index: number): NativeVcpu;
  postedBuffer(): ArrayBuffer;
  setActive(active: boolean): void;
  close(): void;
};

export type IoEngine = 'io_uring' | 'threads';

/** Requests and completions lie in the area; src/kvm/io-ring.ts and native/io_ring.h say how. */
export type NativeIoRing = {
  readonly engine: IoEngine;
  /** called on the event loop when there are completions, with their number */
  onCompletions?: (count: number) => void;
  area(): ArrayBuffer;
  register(buffer: ArrayBuffer, offset: number, length: number): number;
  unregister(buffer: number): void;
  /** Takes the first `count` requests of the area; all of these return how many completions lie there now. */
  submit(count: number): number;
  reap(): number;
  /** Blocks until there is a completion, or nothing in flight. */
  wait(): number;
  /** Blocks until nothing is in flight. */
  close(): void;
};

/** Calls on file descriptors; src/kvm/host-file.ts says what they do. */
export type NativeHostFile = {
  lockShared(fd: number, start: number, length: number): boolean;
  unlock(fd: number, start: number, length: number): void;
  findLock(fd: number, start: number, length: number): { start: number; pid: number } | undefined;
  seek(fd: number, offset: number, hole: boolean): number;
  link(fd: number, path: string): void;
};

/** The area's layout is in src/kvm/frame-list.ts and native/frame_area.h. */
export type NativeFramePort = {
  /** -1 where it is not open */
  readonly fd: number;
  onReadable?: () => void;
  onWritable?: () => void;
  onHangUp?: () => void;
  area(): ArrayBuffer;
  staging(): ArrayBuffer | undefined;
  register(buffer: ArrayBuffer, offset: number, length: number): number;
  unregister(buffer: number): void;
  open(fd: number, kind: 'stream' | 'tap', header: boolean): void;
  shut(): void;
  configure(header: boolean, mergeable: boolean, hostOffloads: number, guestOffloads: number): void;
  refuseLoopback(refuse: boolean): void;
  listen(wanted: boolean): void;
  send(first: number, count: number): number;
  receive(first: number, count: number): number;
  fetch(): number;
  consume(count: number): void;
  forget(): void;
};

export type NativeUnixListener = {
  onConnection?: () => void;
  /** -1 where nobody is there */
  accept(): number;
  close(): void;
};

export type NativeUnixSocket = {
  connect(path: string): number;
  pair(): [number, number];
  sendDescriptor(socket: number, fd: number): void;
  receiveDescriptor(socket: number): number;
};

export type NativeTap = {
  open(name: string, multiQueue: boolean): { fd: number; name: string };
  offloads(fd: number, offloads: number): void;
  carrier(fd: number, up: boolean): void;
  attach(fd: number, used: boolean): void;
  index(name: string): number;
  mtu(name: string): number;
  setMtu(name: string, mtu: number): void;
  up(name: string): void;
  joinBridge(bridge: string, name: string): void;
};

/** Calls and their data lie in the area; src/kvm/file-calls.ts and native/file_operation.h say how. */
export type NativeFileCalls = {
  /** called on the event loop when started calls are over, with their number */
  onCompletions?: (count: number) => void;
  area(): ArrayBuffer;
  run(call: number): number;
  start(call: number): void;
  openFolder(call: number, path: string): number;
  fileLimit(): number;
  /** Blocks until all calls are over. */
  close(): void;
};

/** src/kvm/jail.ts says what these do. */
export type NativeJail = {
  /** a negative errno value where there is none */
  landlockAbi(): number;
  confine(paths: readonly string[], accesses: readonly number[]): number;
  filter(): void;
  limit(files: number): number;
  reserveRings(count: number, entries: number): number;
};

type Addon = {
  initialize(errorClass: typeof KvmError): void;
  EventFd: new () => NativeEventFd;
  Timer: new () => NativeTimer;
  Memory: new (options: NativeMemoryOptions) => NativeMemory;
  MemoryImage: new (
    memory: NativeMemory,
    pageMap: number,
    changedOnly: boolean,
    block: number,
  ) => NativeMemoryImage;
  Kvm: new (path: string) => NativeKvm;
  Vm: new (kvm: NativeKvm) => NativeVm;
  IoRing: new (engine: IoEngine | undefined, entries: number, pieces: number) => NativeIoRing;
  FileCalls: new (count: number, dataSize: number) => NativeFileCalls;
  hostFile: NativeHostFile;
  FramePort: new () => NativeFramePort;
  UnixListener: new (path: string) => NativeUnixListener;
  unixSocket: NativeUnixSocket;
  tap: NativeTap;
  jail: NativeJail;
};

function load(): Addon {
  const root = packageRoot();
  const paths = [
    process.env['TSVM_ADDON'],
    join(root, 'build/Release/tsvm.node'),
    join(root, 'build/Debug/tsvm.node'),
  ];
  const path = paths.find((candidate) => candidate !== undefined && existsSync(candidate));
  if (path === undefined) {
    throw Object.assign(
      new Error(`the native addon is not built: none of ${paths.filter(Boolean).join(', ')} is there`),
      {
        hint: 'build it with `npm run build` (needs g++, make and python3)',
      },
    );
  }
  const addon = createRequire(import.meta.url)(path) as Addon;
  addon.initialize(KvmError);
  return addon;
}

let loaded: Addon | undefined;

/** The addon, loaded at its first use: much of tsvm works without it. */
export function native(): Addon {
  loaded ??= load();
  return loaded;
}
