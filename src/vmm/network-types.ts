import type { PortForward } from '../net/forward.ts';

/** What every network card of a VM has, whatever it is connected to. */
export type CardOptions = {
  /** such as `52:54:00:12:34:56`; default: made of {@link VmOptions.identity} */
  readonly mac?: string;
  /** whether the cable is plugged in at the start; default true */
  readonly link?: boolean;
  /** limits of each direction in a second, averaged; a tenth of a second's worth may come at once */
  readonly rate?: { readonly bytesPerSecond?: number; readonly packetsPerSecond?: number };
};

/** A tap of the host: one that is there, or one that is made and goes with the VM. */
export type TapNetworkOptions = CardOptions & {
  readonly kind: 'tap';
  /** of the interface; default: one is made, `tsvm0` or the next free number */
  readonly tap?: string;
  /** the bridge that it is to be a port of */
  readonly bridge?: string;
  /** in bytes; of an interface that is made. Default that of the interface */
  readonly mtu?: number;
  /** pairs of queues, 1 to 16; default 1 */
  readonly queues?: number;
};

/** Whoever listens on a unix stream socket and speaks the protocol of QEMU's `-netdev stream`. */
export type StreamNetworkOptions = CardOptions & {
  readonly kind: 'stream';
  readonly path: string;
  /** in bytes; default: the guest is told nothing */
  readonly mtu?: number;
};

/** The host's network through passt, without privileges. A VM has one such card at most. */
export type UserNetworkOptions = CardOptions & {
  readonly kind: 'user';
  /** in bytes; default 65520, the most that there is */
  readonly mtu?: number;
  /** ports of the host that lead to the guest */
  readonly forwards?: readonly PortForward[];
  /** whether the guest reaches what listens on the host's loopback, at its gateway's address; default false */
  readonly hostAccess?: boolean;
};

/** A network of VMs of this user: its switch, a process of its own, is started by the first one. */
export type VmnetNetworkOptions = CardOptions & {
  readonly kind: 'vmnet';
  /** 1 to 32 lower-case letters, digits and dashes */
  readonly network: string;
  /** what the VM is called there, as {@link network}; default: what the guest calls itself by DHCP */
  readonly name?: string;
  /** in bytes; default: the guest is told nothing, and takes 1500 */
  readonly mtu?: number;
};

export type NetworkOptions =
  TapNetworkOptions | StreamNetworkOptions | UserNetworkOptions | VmnetNetworkOptions;

/** Frames and bytes (without what virtio puts before a frame) of one pair of queues since the VM was started. */
export type QueueTraffic = {
  readonly receivedFrames: number;
  readonly receivedBytes: number;
  /** not for this guest, by the filter that it has set */
  readonly filtered: number;
  /** too large for the guest's buffers, or no frames */
  readonly receiveDrops: number;
  readonly sentFrames: number;
  readonly sentBytes: number;
  /** of the guest, and not frames: wrong lengths, or headers that make no sense */
  readonly refused: number;
  /** lost since nothing was connected, or the host had no room */
  readonly sendDrops: number;
};

/** A network card of a running VM. */
export type NetworkCard = {
  /** what it is connected to, such as `tap tsvm0` */
  readonly name: string;
  readonly mac: string;
  /** whether frames come and go: the cable is plugged in, and there is something at its other end */
  readonly link: boolean;
  readonly queues: readonly QueueTraffic[];
  /** ports of the host that lead to the guest, with those that were chosen */
  readonly forwards: readonly PortForward[];
};
