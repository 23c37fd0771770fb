/** A network card on a unix socket pair, with this process as its peer. */
import { FramePort } from '../../../src/kvm/frame-port.ts';
import { unixPair } from '../../../src/kvm/unix-socket.ts';
import { NetDevice, type NetDeviceOptions } from '../../../src/devices/net/device.ts';
import type { NetBackend } from '../../../src/net/backend.ts';

export const F = {
  csum: 0,
  guestCsum: 1,
  ctrlGuestOffloads: 2,
  mtu: 3,
  mac: 5,
  guestTso4: 7,
  guestTso6: 8,
  guestEcn: 9,
  hostTso4: 11,
  hostTso6: 12,
  hostEcn: 13,
  mrgRxbuf: 15,
  status: 16,
  ctrlVq: 17,
  ctrlRx: 18,
  ctrlVlan: 19,
  ctrlRxExtra: 20,
  guestAnnounce: 21,
  mq: 22,
  ctrlMacAddr: 23,
  speedDuplex: 63,
} as const;

/** struct virtio_net_hdr (VIRTIO 1.2, 5.1.6) */
export type NetHeader = {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly headerLength?: number;
  readonly gsoSize?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
  readonly buffers?: number;
};

export function netHeader(fields: NetHeader = {}): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, fields.flags ?? 0);
  view.setUint8(1, fields.gsoType ?? 0);
  view.setUint16(2, fields.headerLength ?? 0, true);
  view.setUint16(4, fields.gsoSize ?? 0, true);
  view.setUint16(6, fields.csumStart ?? 0, true);
  view.setUint16(8, fields.csumOffset ?? 0, true);
  view.setUint16(10, fields.buffers ?? 0, true);
  return bytes;
}

export const STATION = Uint8Array.of(0x52, 0x54, 0, 1, 2, 3);
export const PEER = Uint8Array.of(0x52, 0x54, 0, 9, 9, 9);

/** An Ethernet frame of `length` bytes of a kind of its own, with a payload that tells its place. */
export function frame(length: number, to: Uint8Array = PEER, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 14; i < length; i++) bytes[i] = (i * 31 + seed * 17 + (i >>> 8)) & 0xff;
  bytes.set(to, 0);
  bytes.set(STATION, 6);
  bytes.set([0x88, 0xb5], 12);
  return bytes;
}

/** The other end of a back end's sockets: sends and receives plain frames, with a header where the back end has them. */
export class FramePeer {
  readonly port = new FramePort();
  readonly #buffer: number;
  readonly #memory = new Uint8Array(1 << 20);

  constructor(fd: number) {
    this.port.open(fd, 'stream', false);
    this.#buffer = this.port.register(this.#memory);
  }

  /** Sends frames; returns how many the socket has taken. */
  send(...frames: readonly Uint8Array[]): number {
    const { tx } = this.port;
    let at = 0;
    for (const bytes of frames) {
      this.#memory.set(bytes, at);
      tx.add(this.#buffer, at, bytes.length);
      tx.end();
      at += bytes.length;
    }
    const done = this.port.send();
    tx.clear();
    return done;
  }

  /** What has come by now. */
  receive(): Uint8Array[] {
    const frames: Uint8Array[] = [];
    for (let count = this.port.fetch(); count > 0; count = this.port.fetch()) {
      const staging = this.port.staging!;
      for (let i = 0; i < count; i++) {
        const from = this.port.offset(i);
        frames.push(staging.slice(from, from + this.port.length(i)));
      }
      this.port.consume(count);
    }
    return frames;
  }

  close(): void {
    this.port.shut();
  }
}

/** A back end of plain sockets, whose other ends are peers of this process. */
export class PairBackend implements NetBackend {
  readonly name = 'pair';
  readonly ports: readonly FramePort[];
  readonly peers: readonly FramePeer[];
  readonly vnetHeader: boolean;
  readonly mtu?: number;
  link = true;
  onLink: ((up: boolean) => void) | undefined;
  /** what the device has asked for */
  offloads = 0;
  queues = 1;
  carrier = true;

  constructor(options: { pairs?: number; vnetHeader?: boolean; mtu?: number } = {}) {
    const { pairs = 1, vnetHeader = false, mtu } = options;
    this.vnetHeader = vnetHeader;
    if (mtu !== undefined) this.mtu = mtu;
    const made = Array.from({ length: pairs }, () => {
      const [ours, theirs] = unixPair();
      const port = new FramePort();
      port.open(ours, 'stream', vnetHeader);
      return { port, peer: new FramePeer(theirs) };
    });
    this.ports = made.map(({ port }) => port);
    this.peers = made.map(({ peer }) => peer);
  }

  setLink(up: boolean): void {
    this.link = up;
    this.onLink?.(up);
  }

  setOffloads(offloads: number): void {
    this.offloads = offloads;
  }

  setQueues(count: number): void {
    this.queues = count;
  }

  setCarrier(up: boolean): void {
    this.carrier = up;
  }

  close(): Promise<void> {
    for (const port of this.ports) port.shut();
    for (const peer of this.peers) peer.close();
    return Promise.resolve();
  }
}

export type NetFixture = {
  readonly device: NetDevice;
  readonly backend: PairBackend;
  readonly peer: FramePeer;
  close(): Promise<void>;
};

/** A card that does not poll unless `poll` says so. */
export function netFixture(
  options: Partial<Omit<NetDeviceOptions, 'backend'>> & {
    readonly pairs?: number;
    readonly vnetHeader?: boolean;
    readonly mtu?: number;
  } = {},
): NetFixture {
  const { pairs, vnetHeader, mtu, ...rest } = options;
  const backend = new PairBackend({
    ...(pairs !== undefined && { pairs }),
    ...(vnetHeader !== undefined && { vnetHeader }),
    ...(mtu !== undefined && { mtu }),
  });
  const device = new NetDevice({ name: 'net0', backend, mac: STATION, poll: { limit: 0 }, ...rest });
  return {
    device,
    backend,
    peer: backend.peers[0]!,
    close: async () => {
      device.close();
      await backend.close();
    },
  };
}
