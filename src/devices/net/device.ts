import type { GuestMemory } from '../../kvm/guest-memory.ts';
import type { FramePort, FrameUser } from '../../kvm/frame-port.ts';
import { GuestBuffers } from '../../kvm/guest-buffers.ts';
import type { NetBackend } from '../../net/backend.ts';
import type { Activation, VirtioDevice } from '../../virtio/device.ts';
import { Features, VIRTIO_F } from '../../virtio/features.ts';
import { Poller, type PollerOptions } from '../../virtio/poller.ts';
import type { Virtqueue } from '../../virtio/queue.ts';
import { RateLimiter, type RateLimits } from '../rate-limit.ts';
import { netConfig, type NetConfig } from './config.ts';
import { serveControl, type ControlTarget } from './control.ts';
import { featuresAgree, guestOffloads, hostOffloads, netFeatures } from './features.ts';
import { ADDRESS, MAX_PAIRS, NET_DEVICE_ID, NET_F, NET_PCI_CLASS, NET_S } from './protocol.ts';
import { ReceiveFilter } from './receive-filter.ts';
import { ReceiveQueue } from './receive-queue.ts';
import { checkNetState, type NetState } from './state.ts';
import { TransmitQueue } from './transmit-queue.ts';

export type NetDeviceOptions = {
  /** e.g. `net0` */
  readonly name: string;
  /** stays the caller's to close, once the device is reset or closed */
  readonly backend: NetBackend;
  /** 6 bytes */
  readonly mac: Uint8Array;
  /** whether the cable is plugged in; default true */
  readonly link?: boolean;
  /** a power of two up to 1024; default 256 */
  readonly queueSize?: number;
  /** frames and bytes that may go out, and come in, each second */
  readonly rate?: { readonly transmit?: RateLimits; readonly receive?: RateLimits };
  readonly poll?: PollerOptions;
};

/** How often a queue is looked at once more because the driver was quick, before other work has its turn. */
const ROUNDS = 4;

/** The guest's answer is looked for after a frame has come in, but where so many had none it does not answer them. */
const UNANSWERED = 8;

/** A pair of queues during one activation, and its port. */
type Pair = {
  readonly port: FramePort;
  readonly transmit: TransmitQueue | undefined;
  readonly receive: ReceiveQueue | undefined;
};

/** virtio-net (VIRTIO 1.2, 5.1) on a back end of the host. */
export class NetDevice implements VirtioDevice, ControlTarget {
  readonly name: string;
  readonly deviceId = NET_DEVICE_ID;
  readonly pciClass = NET_PCI_CLASS;
  readonly features: Features;
  readonly queueSizes: readonly number[];
  readonly config: NetConfig;
  readonly filter: ReceiveFilter;
  readonly #backend: NetBackend;
  /** the card's own address, which the driver may change until its next reset */
  readonly #mac: Uint8Array;
  readonly #transmitLimiter: RateLimiter;
  readonly #receiveLimiter: RateLimiter;
  readonly #poller: Poller;
  /** times that frames have come in since the driver has sent some */
  #unanswered = 0;
  #memory: GuestMemory | undefined;
  #buffers: GuestBuffers[] = [];
  #features = new Features(0, 0);
  #pairs: readonly Pair[] = [];
  #control: Virtqueue | undefined;
  /** what the host wants of the link */
  #plugged: boolean;
  #offloads = 0;
  #pairsInUse = 1;
  /** to be taken over by the next activation */
  #restored: NetState | undefined;
  #paused = false;
  #againScheduled = false;

  /** @throws RangeError for options that are out of range */
  constructor(options: NetDeviceOptions) {
    const { name, backend, mac, queueSize = 256 } = options;
    const pairs = backend.ports.length;
    if (mac.length !== ADDRESS) throw new RangeError('a MAC address has 6 bytes');
    if (pairs < 1 || pairs > MAX_PAIRS) throw new RangeError(`${pairs} pairs of queues`);
    this.name = name;
    this.#backend = backend;
    this.#mac = Uint8Array.from(mac);
    this.#plugged = options.link ?? true;
    this.features = netFeatures(backend);
    this.queueSizes = Array.from({ length: 2 * pairs + 1 }, () => queueSize);
    this.config = netConfig({ mac, link: this.link, pairs, mtu: backend.mtu });
    this.filter = new ReceiveFilter(backend.ports, this.#mac);
    this.filter.reset(this.#mac, false);
    this.#transmitLimiter = new RateLimiter(options.rate?.transmit ?? {}, () => this.#admitted('transmit'));
    this.#receiveLimiter = new RateLimiter(options.rate?.receive ?? {}, () => this.#admitted('receive'));
    this.#poller = new Poller({ poll: () => this.#poll(), rest: () => this.#rest() }, options.poll);
    backend.ports.forEach((port, index) => (port.user = this.#userOf(index)));
    backend.onLink = () => this.#linkChanged();
  }

  get pairs(): number {
    return this.#backend.ports.length;
  }

  /** Whether frames come and go. */
  get link(): boolean {
    return this.#plugged && this.#backend.link;
  }

  /** Plugs the cable in, or pulls it out. */
  setLink(up: boolean): void {
    this.#plugged = up;
    this.#backend.setCarrier?.(up);
    this.#linkChanged();
  }

  /** Asks the driver to tell the network where it is (5.1.6.5.4), after it has come to another place. */
  announce(): void {
    if (this.#features.has(NET_F.guestAnnounce)) this.#showLink(NET_S.announce);
  }

  accepts(features: Features): boolean {
    return featuresAgree(features);
  }

  activate({ memory, features, queues }: Activation): void {
    const { ports } = this.#backend;
    if (memory !== this.#memory) {
      this.#release();
      this.#memory = memory;
      this.#buffers = ports.map((port) => new GuestBuffers(port, memory));
    }
    this.#features = features;
    const multi = features.has(NET_F.mq);
    this.#pairs = ports.slice(0, multi ? ports.length : 1).map((port, index) => {
      port.tx.clear();
      port.rx.clear();
      const receive = queues[2 * index];
      const transmit = queues[2 * index + 1];
      const buffers = this.#buffers[index]!;
      return {
        port,
        receive: receive && new ReceiveQueue(receive, port, buffers, this.#receiveLimiter),
        transmit: transmit && new TransmitQueue(transmit, port, buffers, this.#transmitLimiter),
      };
    });
    // 5.1.2: behind the queues of all pairs, or of the one that there is without MQ
    this.#control = features.has(NET_F.ctrlVq) ? queues[multi ? 2 * ports.length : 2] : undefined;
    const restored = this.#restored;
    this.#restored = undefined;
    if (restored === undefined) this.filter.reset(this.#mac, features.has(NET_F.ctrlVlan));
    else this.#takeOver(restored);
    this.setOffloads(restored?.offloads ?? guestOffloads(features));
    this.#usePairs(restored?.pairs ?? 1);
  }

  notified(index: number): void {
    if (this.#paused) return;
    if (index >> 1 >= this.#pairs.length) {
      this.#serveControl();
      return;
    }
    const pair = this.#used(index >> 1);
    if (pair === undefined) return;
    if ((index & 1) === 1) {
      this.#poller.woken();
      this.#transmit(pair);
    } else this.#receive(pair);
  }

  reset(): undefined {
    this.#restored = undefined;
    this.#stop();
    for (const { port } of this.#pairs) {
      port.tx.clear();
      port.rx.clear();
      port.forget();
    }
    this.#pairs = [];
    this.#control = undefined;
    this.#features = new Features(0, 0);
    this.#offloads = 0;
    this.#usePairs(1);
    if (Buffer.compare(this.config.getBytes('mac'), this.#mac) !== 0) this.config.set({ mac: this.#mac });
    this.#showLink(0);
  }

  pause(): Promise<void> {
    this.#paused = true;
    this.#stop();
    return Promise.resolve();
  }

  resume(): void {
    this.#paused = false;
    for (const { receive, transmit } of this.#pairs) {
      if (receive !== undefined) receive.limited = false;
      if (transmit !== undefined) transmit.limited = false;
    }
  }

  save(): NetState {
    const { filter } = this;
    return {
      active: this.#features.has(VIRTIO_F.version1),
      mac: [...filter.station],
      link: this.#plugged,
      modes: [...filter.modes],
      unicast: filter.unicast.map((address) => [...address]),
      multicast: filter.multicast.map((address) => [...address]),
      vlans: [...filter.vlans],
      pairs: this.#pairsInUse,
      offloads: this.#offloads,
      announce: (this.config.get('status') & NET_S.announce) !== 0,
    };
  }

  restore(data: unknown): void {
    const state = checkNetState(this.name, data);
    if (state.pairs > this.pairs) checkNetState(this.name, { ...state, pairs: 0 });
    this.#plugged = state.link;
    const link = this.link ? NET_S.linkUp : 0;
    this.#restored = state.active ? state : undefined;
    this.config.set(
      state.active
        ? { mac: Uint8Array.from(state.mac), status: link | (state.announce ? NET_S.announce : 0) }
        : { status: link },
    );
  }

  close(): void {
    this.#stop();
    this.#pairs = [];
    this.#release();
    this.#backend.onLink = undefined;
    for (const port of this.#backend.ports) port.user = undefined;
  }

  // ---- what control commands change

  setAddress(address: Uint8Array): void {
    this.filter.setStation(address);
    this.config.set({ mac: address });
  }

  announced(): void {
    this.config.set({ status: this.config.get('status') & ~NET_S.announce });
  }

  setPairs(count: number): void {
    this.#usePairs(count);
    // What the driver has there already it need not notify of again.
    for (const pair of this.#pairs.slice(1, count)) {
      this.#transmit(pair);
      this.#receive(pair);
    }
  }

  #usePairs(count: number): void {
    this.#pairsInUse = count;
    for (const { port } of this.#pairs.slice(count)) port.listen(false);
    this.#backend.setQueues?.(count);
  }

  /** A pair that the driver uses: the host has no place for frames of others. */
  #used(index: number): Pair | undefined {
    return this.#paused || index >= this.#pairsInUse ? undefined : this.#pairs[index];
  }

  setOffloads(offloads: number): void {
    this.#offloads = offloads;
    const format = {
      header: true,
      mergeable: this.#features.has(NET_F.mrgRxbuf),
      hostOffloads: hostOffloads(this.#features),
      guestOffloads: offloads,
    };
    for (const port of this.#backend.ports) port.configure(format);
    this.#backend.setOffloads?.(offloads);
  }

  #takeOver({ mac, modes, unicast, multicast, vlans }: NetState): void {
    const { filter } = this;
    filter.reset(Uint8Array.from(mac), this.#features.has(NET_F.ctrlVlan));
    filter.modes.clear();
    for (const mode of modes) filter.modes.add(mode);
    for (const vlan of vlans) filter.vlans.add(vlan);
    filter.setTable(
      unicast.map((address) => Uint8Array.from(address)),
      multicast.map((address) => Uint8Array.from(address)),
    );
  }

  #userOf(index: number): FrameUser {
    return {
      readable: () => {
        const pair = this.#used(index);
        if (pair !== undefined) this.#receive(pair);
        else this.#backend.ports[index]!.listen(false);
      },
      writable: () => {
        const pair = this.#used(index);
        if (pair !== undefined) this.#transmit(pair);
      },
    };
  }

  /** Shows the driver the link, and these other bits of the status. */
  #showLink(others: number): void {
    const status = others | (this.link ? NET_S.linkUp : 0);
    if (status !== this.config.get('status')) this.config.set({ status });
  }

  #linkChanged(): void {
    const before = this.config.get('status');
    // A switch behind a link that is new does not know the guest (5.1.6.5.4).
    const comesUp = this.link && (before & NET_S.linkUp) === 0 && this.#features.has(NET_F.guestAnnounce);
    this.#showLink((before & NET_S.announce) | (comesUp ? NET_S.announce : 0));
    if (this.#paused) return;
    for (const pair of this.#pairs.slice(0, this.#pairsInUse)) {
      // What waits for the host goes now, or is dropped.
      this.#transmit(pair);
      this.#receive(pair);
    }
  }

  /** Sends what is in a queue, and sees to it that the next frame is noticed. */
  #transmit({ transmit }: Pair): void {
    if (transmit === undefined) return;
    for (let round = 0; round < ROUNDS; round++) {
      if (transmit.serve(this.link)) this.#unanswered = 0;
      if (transmit.isBlocked || transmit.limited) return;
      if (transmit.again) break;
      if (this.#poller.worked(false) || !transmit.listen()) return;
    }
    transmit.again = true;
    this.#later();
  }

  #receive({ port, receive }: Pair): void {
    if (receive === undefined || receive.limited) return;
    if (!this.link) {
      port.forget();
      port.listen(false);
      return;
    }
    if (receive.serve() && this.#unanswered++ < UNANSWERED) this.#poller.worked(false);
    if (receive.again) this.#later();
  }

  #serveControl(): void {
    const queue = this.#control;
    queue?.drain((chain) => queue.push(chain.head, serveControl(chain, this.#features, this)));
  }

  #poll(): boolean {
    let worked = false;
    for (let i = 0; i < this.#pairsInUse; i++) {
      const transmit = this.#pairs[i]?.transmit;
      if (transmit !== undefined && !transmit.limited && !transmit.isBlocked && transmit.serve(this.link))
        worked = true;
    }
    if (worked) {
      this.#unanswered = 0;
      this.#poller.worked(false);
    }
    return worked;
  }

  #rest(): void {
    for (const pair of this.#pairs.slice(0, this.#pairsInUse)) {
      const { transmit } = pair;
      if (transmit === undefined || transmit.limited || transmit.isBlocked) continue;
      if (transmit.again || transmit.listen()) this.#transmit(pair);
    }
  }

  /** The limits let frames pass again. */
  #admitted(direction: 'transmit' | 'receive'): void {
    for (const pair of this.#pairs) {
      const queue = pair[direction];
      if (queue?.limited !== true) continue;
      queue.limited = false;
      if (direction === 'transmit') this.#transmit(pair);
      else this.#receive(pair);
    }
  }

  #later(): void {
    if (this.#againScheduled) return;
    this.#againScheduled = true;
    setImmediate(() => {
      this.#againScheduled = false;
      if (this.#paused) return;
      for (const pair of this.#pairs) {
        if (pair.transmit?.again === true) {
          pair.transmit.again = false;
          this.#transmit(pair);
        }
        if (pair.receive?.again === true) {
          pair.receive.again = false;
          this.#receive(pair);
        }
      }
    });
  }

  #stop(): void {
    this.#transmitLimiter.stop();
    this.#receiveLimiter.stop();
    this.#poller.stop();
    for (const { port } of this.#pairs) port.listen(false);
  }

  #release(): void {
    for (const buffers of this.#buffers) buffers.release();
    this.#buffers = [];
    this.#memory = undefined;
  }
}
