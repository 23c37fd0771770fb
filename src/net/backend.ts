/** What a network device's frames go to and come from. */
import type { FramePort } from '../kvm/frame-port.ts';

/**
 * The host's end of a network card. It is made before the devices of a boot and outlives them; a device takes its
 * ports (`user`, `configure`, `filter`, `listen` and the lists of frames) and hears of the link.
 *
 * Connecting, connecting again after the peer has died, and telling of it are its own business: while nothing is
 * there its ports drop what is sent, and the link is down.
 */
export type NetBackend = {
  /** names it in messages, e.g. `tap tap0` */
  readonly name: string;
  /** One for each pair of queues; the same ones until it is closed. */
  readonly ports: readonly FramePort[];
  /**
   * Frames of the host have offload headers, so what comes from there may leave checksums and segments to the guest.
   * What the guest leaves undone is done in the port where there are none.
   */
  readonly vnetHeader: boolean;
  /** what the guest is told to be the largest packet, in bytes; undefined to tell nothing */
  readonly mtu?: number;
  /** whether frames go anywhere now */
  readonly link: boolean;
  /** Told of every change of {@link link}, on the event loop. Set by the device. */
  onLink: ((up: boolean) => void) | undefined;
  /** The guest takes these left undone, a set of `OFFLOAD`; called when a driver is ready. */
  setOffloads?(offloads: number): void;
  /** The guest uses the first `count` ports; called when a driver is ready, and when it changes its mind. */
  setQueues?(count: number): void;
  /** The card's link as the VM's owner wants it, for a host that can show it. */
  setCarrier?(up: boolean): void;
  /** Disconnects, and frees all. Nothing is called any more. */
  close(): Promise<void>;
};
