import { BalloonDevice } from '../devices/balloon/device.ts';
import { BlockDevice } from '../devices/block/device.ts';
import type { DiskTraffic } from '../devices/block/traffic.ts';
import { ConsoleDevice, type ConsolePortOptions, type ConsoleSize } from '../devices/console/device.ts';
import { FsDevice } from '../devices/fs/device.ts';
import { FileBudget, SharedFolder } from '../devices/fs/folder.ts';
import { EntropyDevice } from '../devices/rng/device.ts';
import { VsockDevice } from '../devices/vsock/device.ts';
import { GuestBuffers } from '../kvm/guest-buffers.ts';
import { IoRing } from '../kvm/io-ring.ts';
import { StorageError, type Disk } from '../storage/disk.ts';
import { openDisk } from '../storage/open.ts';
import { SwitchableDisk } from '../storage/switchable-disk.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import { ConsoleHost } from './console-host.ts';
import { HostPort } from './host-port.ts';
import { Networks } from './networks.ts';
import { PortSocket } from './port-socket.ts';
import { shareTags } from './share-tags.ts';
import { VsockHost } from './vsock-host.ts';
import { switchToOverlay } from './snapshot/switch-disk.ts';
import type { BalloonControl, DiskOptions, GuestPort, MemoryStatistics, Share, VmOptions } from './types.ts';

/** What of a VM's options is about its virtio devices. */
export type PeripheralOptions = Required<
  Pick<VmOptions, 'disks' | 'console' | 'networks' | 'ports' | 'shares' | 'rng' | 'log' | 'memory' | 'cpus'>
> &
  Pick<VmOptions, 'balloon' | 'identity' | 'vsock'>;

/** More queues than this gain nothing: one event loop serves them all. */
const DEFAULT_QUEUE_LIMIT = 4;
const DEFAULT_CID = 3;

type OpenDisk = { readonly options: DiskOptions; readonly disk: Disk | SwitchableDisk };
type OpenPort = { readonly port: HostPort; readonly socket: PortSocket | undefined };
type OpenShare = { readonly share: Share; readonly folder: SharedFolder };

/** The host's end of a VM's devices: files, sockets and consoles. It outlives the devices of one boot. */
export class Peripherals {
  /** hvc0, where that is the VM's console */
  readonly console: ConsoleHost | undefined;
  readonly balloon: BalloonControl | undefined;
  readonly networks: Networks;
  readonly #options: PeripheralOptions;
  readonly #ring: IoRing | undefined;
  readonly #disks: readonly OpenDisk[];
  readonly #ports: readonly OpenPort[];
  readonly #shares: readonly OpenShare[];
  readonly #vsock: VsockHost | undefined;
  /** devices of the board of now */
  #blocks: readonly BlockDevice[] = [];
  #names: readonly string[] = [];
  #console: ConsoleDevice | undefined;
  #balloon: BalloonDevice | undefined;
  #consoleSize: ConsoleSize | undefined;
  #closing: Promise<void> | undefined;

  /**
   * Opens all files and sockets; nothing is left open where one of them cannot be.
   * @param opened the networks, where they are open already
   * @throws StorageError, PortSocketError, ShareError, NetworkError, RangeError
   */
  static async open(options: PeripheralOptions, opened?: Networks): Promise<Peripherals> {
    const ring = options.disks.length + options.shares.length > 0 ? new IoRing() : undefined;
    const disks: OpenDisk[] = [];
    const ports: OpenPort[] = [];
    const shares: OpenShare[] = [];
    let vsock: VsockHost | undefined;
    let networks = opened;
    try {
      for (const disk of options.disks) {
        disks.push({ options: disk, disk: await open(ring!, disk, options.log) });
      }
      for (const { name, path } of options.ports) {
        const port = new HostPort(name);
        const socket =
          path === undefined ? undefined : await PortSocket.listen(path, port, { log: options.log });
        ports.push({ port, socket });
      }
      const budget = new FileBudget();
      for (const share of shareTags(options.shares)) {
        shares.push({ share, folder: new SharedFolder({ ...share, budget }) });
      }
      if (options.vsock !== undefined) vsock = await VsockHost.listen(options.vsock.path);
      networks ??= await Networks.open(options);
      return new Peripherals(options, ring, disks, ports, shares, vsock, networks);
    } catch (error) {
      await closeAll(ring, disks, ports, shares, vsock, networks);
      throw error;
    }
  }

  private constructor(
    options: PeripheralOptions,
    ring: IoRing | undefined,
    disks: readonly OpenDisk[],
    ports: readonly OpenPort[],
    shares: readonly OpenShare[],
    vsock: VsockHost | undefined,
    networks: Networks,
  ) {
    this.#options = options;
    this.#ring = ring;
    this.#disks = disks;
    this.#ports = ports;
    this.#shares = shares;
    this.#vsock = vsock;
    this.networks = networks;
    this.console = options.console === 'hvc0' ? new ConsoleHost() : undefined;
    this.balloon = options.balloon === undefined ? undefined : this.#balloonControl();
  }

  /** New devices for a new board, in the order in which the guest finds them. */
  devices(): VirtioDevice[] {
    const { rng } = this.#options;
    this.#blocks = this.#disks.map((disk, index) => this.#block(disk, index));
    this.#console = this.#consoleDevice();
    this.#balloon = this.#balloonDevice();
    const devices = [
      ...this.#blocks,
      ...this.networks.devices(),
      ...(this.#console ? [this.#console] : []),
      ...(rng ? [new EntropyDevice({ name: 'rng0' })] : []),
      ...(this.#balloon ? [this.#balloon] : []),
      ...this.#vsockDevices(),
      ...this.#shares.map((share, index) => this.#fileSystem(share, index)),
    ];
    this.#names = devices.map(({ name }) => name);
    return devices;
  }

  /** of the board of now */
  get deviceNames(): readonly string[] {
    return this.#names;
  }

  /** Puts an overlay on a disk at rest; the file below gets another name. @throws StorageError, RangeError */
  async freezeDisk(index: number, path: string): Promise<void> {
    const found = this.#disks[index];
    if (found === undefined)
      throw new RangeError(`the VM has ${this.#disks.length} disks, and no disk ${index}`);
    const { options, disk } = found;
    if (!(disk instanceof SwitchableDisk))
      throw new StorageError(
        options.path,
        'EDISK',
        'cannot be frozen: only qcow2 images that the guest writes to are',
        'convert it (`tsvm disk convert --to qcow2`)',
      );
    await switchToOverlay(this.#ring!, disk, path, () => open(this.#ring!, options, this.#options.log));
  }

  get disks(): readonly DiskTraffic[] {
    return this.#blocks.map(({ traffic }) => ({ ...traffic }));
  }

  get shares(): readonly Share[] {
    return this.#shares.map(({ share }) => share);
  }

  port(name: string): GuestPort | undefined {
    return this.#ports.find(({ port }) => port.name === name)?.port;
  }

  resizeConsole(columns: number, rows: number): void {
    this.#consoleSize = { columns, rows };
    if (this.console !== undefined) this.#console?.resize(columns, rows);
  }

  /** @throws StorageError, RangeError */
  async resizeDisk(index: number, size: number): Promise<void> {
    const disk = this.#disks[index]?.disk;
    if (disk === undefined)
      throw new RangeError(`the VM has ${this.#disks.length} disks, and no disk ${index}`);
    await disk.resize(size);
    this.#blocks[index]?.resized();
  }

  /** Resolves once disks are synced and closed and sockets are gone. The board is closed already. */
  close(): Promise<void> {
    this.console?.close();
    this.#closing ??= closeAll(
      this.#ring,
      this.#disks,
      this.#ports,
      this.#shares,
      this.#vsock,
      this.networks,
    );
    return this.#closing;
  }

  #block({ options, disk }: OpenDisk, index: number): BlockDevice {
    const ring = this.#ring!;
    const { serial, blockSize, rate } = options;
    return new BlockDevice({
      name: `block${index}`,
      disk,
      buffers: (memory) => new GuestBuffers(ring, memory),
      reap: () => ring.reap(),
      log: this.#options.log,
      queues: options.queues ?? Math.min(this.#options.cpus, DEFAULT_QUEUE_LIMIT),
      ...(serial !== undefined && { serial }),
      ...(blockSize !== undefined && { blockSize }),
      ...(rate && {
        rate: {
          bytes: rate.bytesPerSecond === undefined ? undefined : { rate: rate.bytesPerSecond },
          operations: rate.operationsPerSecond === undefined ? undefined : { rate: rate.operationsPerSecond },
        },
      }),
    });
  }

  #fileSystem({ share, folder }: OpenShare, index: number): FsDevice {
    const { tag } = share;
    return new FsDevice({ name: `fs${index}`, tag, folder, ring: this.#ring!, log: this.#options.log });
  }

  #consoleDevice(): ConsoleDevice | undefined {
    const ports: ConsolePortOptions[] = this.#ports.map(({ port }) => ({ name: port.name, backend: port }));
    if (this.console !== undefined) ports.unshift({ console: true, backend: this.console });
    if (ports.length === 0) return undefined;
    const size = this.#consoleSize;
    return new ConsoleDevice({ name: 'console0', ports, log: this.#options.log, ...(size && { size }) });
  }

  #balloonDevice(): BalloonDevice | undefined {
    const { balloon, memory, log } = this.#options;
    if (balloon === undefined) return undefined;
    // What the host wants back does not change with a reboot of the guest.
    const size = this.#balloon?.target ?? balloon.size ?? 0;
    return new BalloonDevice({ ...balloon, name: 'balloon0', memory, size, log });
  }

  #vsockDevices(): VsockDevice[] {
    if (this.#vsock === undefined) return [];
    const cid = this.#options.vsock?.cid ?? DEFAULT_CID;
    return [new VsockDevice({ name: 'vsock0', cid, backend: this.#vsock, log: this.#options.log })];
  }

  #balloonControl(): BalloonControl {
    const device = (): BalloonDevice => {
      if (this.#balloon === undefined) throw new Error('the VM has no balloon yet');
      return this.#balloon;
    };
    return {
      get target(): number {
        return device().target;
      },
      get actual(): number {
        return device().actual;
      },
      resize: (size: number): void => device().resize(size),
      statistics: (timeout?: number): Promise<MemoryStatistics | undefined> => device().statistics(timeout),
    };
  }
}

async function open(
  ring: IoRing,
  options: DiskOptions,
  log: (line: string) => void,
): Promise<Disk | SwitchableDisk> {
  const disk = await openDisk(ring, { ...options, log });
  return options.format === 'qcow2' && !disk.readOnly ? new SwitchableDisk(disk) : disk;
}

async function closeAll(
  ring: IoRing | undefined,
  disks: readonly OpenDisk[],
  ports: readonly OpenPort[],
  shares: readonly OpenShare[],
  vsock: VsockHost | undefined,
  networks: Networks | undefined,
): Promise<void> {
  const closing = [
    ...disks.map(({ disk }) => disk.close()),
    ...ports.map(async ({ port, socket }) => (socket ? socket.close() : port.close())),
    ...(vsock ? [vsock.close()] : []),
    ...(networks ? [networks.close()] : []),
  ];
  const results = await Promise.allSettled(closing);
  ring?.close();
  for (const { folder } of shares) folder.close();
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}
