/** Frames through a tap of Linux: an existing one, or one that is made, put on a bridge, and gone with the VM. */
import { closeSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { KvmError } from '../kvm/errors.ts';
import { FramePort } from '../kvm/frame-port.ts';
import {
  bringInterfaceUp,
  interfaceExists,
  interfaceMtu,
  joinBridge,
  openTap,
  setInterfaceMtu,
  setTapCarrier,
  setTapOffloads,
  useTapQueue,
} from '../kvm/tap.ts';
import type { NetBackend } from './backend.ts';
import { NetworkError } from './network-error.ts';

export type TapOptions = {
  /** of the interface, up to 15 bytes; it is made where it is not there. Default: made, with a number */
  readonly tap?: string;
  /** which it is to be a port of, by name */
  readonly bridge?: string;
  /** in bytes, of an interface that is made; the guest is told that of the interface */
  readonly mtu?: number;
  /** 1 to 16; default 1 */
  readonly queues?: number;
  /** takes a line when the interface goes, and when it is back */
  readonly log: (line: string) => void;
};

/** The kernel puts the first free number in place of %d. */
const ANY_NAME = 'tsvm%d';
/** milliseconds between looks for an interface that has gone */
const RETRY_MS = 1000;

/**
 * What an interface that was taken away answers: EBADFD, which Node.js has no name for, and a queue that was set aside
 * EINVAL.
 */
const GONE = new Set(['E77', 'ENODEV', 'EINVAL']);

export class TapBackend implements NetBackend {
  /** of the interface */
  readonly tap: string;
  readonly name: string;
  readonly ports: readonly FramePort[];
  readonly vnetHeader = true;
  readonly mtu: number;
  onLink: ((up: boolean) => void) | undefined;
  readonly #options: TapOptions;
  #link = true;
  #offloads = 0;
  #queues = 1;
  #carrier = true;
  /** which queues the kernel puts frames into */
  #attached: boolean[];
  #again: NodeJS.Timeout | undefined;

  /** @throws NetworkError with what to do about it */
  constructor(options: TapOptions) {
    this.#options = options;
    const { fds, name } = openQueues(options, options.tap ?? ANY_NAME);
    this.tap = name;
    this.name = `tap ${name}`;
    this.#attached = fds.map(() => true);
    this.ports = fds.map((fd) => {
      const port = new FramePort();
      port.open(fd, 'tap', true);
      port.onEnd = () => this.#lost();
      return port;
    });
    this.mtu = interfaceMtu(name);
    this.setQueues(1);
  }

  get link(): boolean {
    return this.#link;
  }

  setOffloads(offloads: number): void {
    this.#offloads = offloads;
    this.#ask(() => setTapOffloads(this.ports[0]!.fd, offloads));
  }

  setQueues(count: number): void {
    this.#queues = count;
    this.ports.forEach((port, index) => {
      const used = index < count;
      if (this.#attached[index] === used) return;
      this.#ask(() => {
        useTapQueue(port.fd, used);
        this.#attached[index] = used;
      });
    });
  }

  setCarrier(up: boolean): void {
    this.#carrier = up;
    this.#ask(() => setTapCarrier(this.ports[0]!.fd, up));
  }

  close(): Promise<void> {
    clearTimeout(this.#again);
    this.onLink = undefined;
    this.#link = false;
    for (const port of this.ports) port.shut();
    return Promise.resolve();
  }

  /** An interface that has gone answers nothing; it is noticed where frames are. */
  #ask(request: () => void): void {
    if (!this.#link) return;
    try {
      request();
    } catch (error) {
      if (!(error instanceof KvmError)) throw error;
      if (GONE.has(error.code)) this.#lost();
      else this.#options.log(`${this.name}: ${error.message}`);
    }
  }

  #lost(): void {
    if (!this.#link) return;
    this.#link = false;
    for (const port of this.ports) port.shut();
    this.#options.log(`${this.name}: the link is down: the interface is gone`);
    this.#retry();
    this.onLink?.(false);
  }

  #retry(): void {
    this.#again = setTimeout(() => {
      try {
        this.#reopen();
      } catch {
        // told when it went; whoever took it away may bring it back
        this.#retry();
      }
    }, RETRY_MS);
    this.#again.unref();
  }

  #reopen(): void {
    const { fds } = openQueues(this.#options, this.tap);
    this.#attached = fds.map(() => true);
    this.ports.forEach((port, index) => port.open(fds[index]!, 'tap', true));
    this.#link = true;
    this.setQueues(this.#queues);
    this.setOffloads(this.#offloads);
    if (!this.#carrier) this.setCarrier(false);
    this.#options.log(`${this.name}: the link is up again`);
    this.onLink?.(true);
  }
}

/** Opens all queues of a tap and sees to it that it is up, and where it is to be. */
function openQueues(
  { bridge, mtu, queues = 1 }: TapOptions,
  wanted: string,
): { fds: readonly number[]; name: string } {
  const existed = interfaceExists(wanted);
  const fds: number[] = [];
  let name = wanted;
  try {
    for (let i = 0; i < queues; i++) {
      const queue = openQueue(name, queues, existed);
      fds.push(queue.fd);
      name = queue.name;
    }
    if (mtu !== undefined && !existed) attempt(() => setInterfaceMtu(name, mtu), `set the MTU of ${name}`);
    if (bridge !== undefined) putOnBridge(name, bridge);
    attempt(() => bringInterfaceUp(name), `bring ${name} up`, `bring it up: sudo ip link set ${name} up`);
    return { fds, name };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
}

function openQueue(name: string, queues: number, existed: boolean): { fd: number; name: string } {
  try {
    return openTap(name, queues > 1);
  } catch (error) {
    if (!(error instanceof KvmError)) throw error;
    // One that was made for several queues is opened as such, also for one.
    if (error.code === 'EINVAL' && existed && queues === 1) return retryAsMultiQueue(name, error);
    throw describe(error, name, queues, existed);
  }
}

function retryAsMultiQueue(name: string, first: KvmError): { fd: number; name: string } {
  try {
    return openTap(name, true);
  } catch {
    throw describe(first, name, 1, true);
  }
}

function describe(
  { code, request, message }: KvmError,
  name: string,
  queues: number,
  existed: boolean,
): NetworkError {
  const multi = queues > 1 ? ' multi_queue' : '';
  const make = `sudo ip tuntap add ${name === ANY_NAME ? 'tap0' : name} mode tap user "$USER"${multi}`;
  const what = existed ? `cannot use tap ${name}` : `cannot make tap ${name}`;
  if (request === '/dev/net/tun') {
    return code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV'
      ? new NetworkError(
          code,
          'taps need /dev/net/tun, which is not there',
          'load the module: sudo modprobe tun',
        )
      : new NetworkError(
          code,
          `taps need /dev/net/tun: ${code}`,
          'let your user open it, or use the user-mode network',
        );
  }
  switch (code) {
    case 'EPERM':
    case 'EACCES':
      return existed
        ? new NetworkError(code, `${what}: it is another user's`, `make one for yourself: ${make}`)
        : new NetworkError(code, `${what}: that needs CAP_NET_ADMIN`, `have it made beforehand: ${make}`);
    case 'EBUSY':
      return new NetworkError(code, `${what}: another process uses it`, 'give each VM a tap of its own');
    case 'EINVAL':
      return queues > 1
        ? new NetworkError(
            code,
            `${what} with ${queues} queues: it was made for one, or is no tap`,
            `make it with ${make}`,
          )
        : new NetworkError(code, `${what}: there is an interface of this name, and it is no tap`);
    case 'E2BIG':
      return new NetworkError(code, `${what}: it has not ${queues} queues left`, 'end what uses the others');
    default:
      return new NetworkError(code, `${what}: ${message}`);
  }
}

function putOnBridge(name: string, bridge: string): void {
  const master = masterOf(name);
  if (master === bridge) return;
  if (master !== undefined) {
    throw new NetworkError(
      'EBUSY',
      `${name} is a port of ${master}, not of ${bridge}`,
      `take it out: sudo ip link set ${name} nomaster`,
    );
  }
  if (!interfaceExists(bridge)) {
    throw new NetworkError(
      'ENODEV',
      `there is no bridge ${bridge}`,
      `make it: sudo ip link add ${bridge} type bridge && sudo ip link set ${bridge} up`,
    );
  }
  attempt(
    () => joinBridge(bridge, name),
    `make ${name} a port of ${bridge}`,
    `have it done beforehand: sudo ip link set ${name} master ${bridge}`,
  );
}

/** What an interface is a port of. */
function masterOf(name: string): string | undefined {
  try {
    return basename(readlinkSync(`/sys/class/net/${name}/master`));
  } catch {
    return undefined;
  }
}

/** @throws NetworkError where the host refuses */
function attempt(request: () => void, what: string, hint?: string): void {
  try {
    request();
  } catch (error) {
    if (!(error instanceof KvmError)) throw error;
    const { code } = error;
    const reason =
      code === 'EPERM' || code === 'EACCES'
        ? 'that needs CAP_NET_ADMIN'
        : code === 'EOPNOTSUPP' || code === 'ENOTTY'
          ? 'it is no bridge'
          : code;
    throw new NetworkError(code, `cannot ${what}: ${reason}`, hint);
  }
}
