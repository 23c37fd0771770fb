import { FILTER_ADDRESSES, type FilterMode } from '../../kvm/frame-filter.ts';
import type { FramePort } from '../../kvm/frame-port.ts';
import { VLANS } from './protocol.ts';

/** The modes that a driver sets (VIRTIO 1.2, 5.1.6.5.1). */
export const RX_MODES = [
  'promiscuous',
  'allMulticast',
  'allUnicast',
  'noMulticast',
  'noUnicast',
  'noBroadcast',
] as const satisfies readonly FilterMode[];
export type RxMode = (typeof RX_MODES)[number];

/** Which frames the driver wants, the same on all ports. */
export class ReceiveFilter {
  readonly modes = new Set<RxMode>();
  readonly vlans = new Set<number>();
  unicast: readonly Uint8Array[] = [];
  multicast: readonly Uint8Array[] = [];
  station: Uint8Array;
  /** whether frames of VLANs are for those who have asked for them only */
  #byVlan = false;
  readonly #ports: readonly FramePort[];

  constructor(ports: readonly FramePort[], station: Uint8Array) {
    this.#ports = ports;
    this.station = station;
  }

  /** As after a reset: everything is let through, until the driver says otherwise. */
  reset(station: Uint8Array, byVlan: boolean): void {
    this.modes.clear();
    this.modes.add('promiscuous');
    this.vlans.clear();
    this.unicast = [];
    this.multicast = [];
    this.station = station;
    this.#byVlan = byVlan;
    this.apply();
  }

  setMode(mode: RxMode, on: boolean): void {
    if (on) this.modes.add(mode);
    else this.modes.delete(mode);
    this.apply();
  }

  setVlan(vlan: number, on: boolean): void {
    if (on) this.vlans.add(vlan);
    else this.vlans.delete(vlan);
    for (const { filter } of this.#ports) filter.setVlan(vlan, on);
  }

  setTable(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): void {
    this.unicast = unicast;
    this.multicast = multicast;
    this.apply();
  }

  setStation(station: Uint8Array): void {
    this.station = station;
    this.apply();
  }

  /** Tells all ports. Of a list that is longer than there is room for, every address is let through. */
  apply(): void {
    const multicastFits = this.multicast.length <= FILTER_ADDRESSES / 2;
    const unicastFits = this.unicast.length <= FILTER_ADDRESSES / 2;
    for (const { filter } of this.#ports) {
      for (const mode of RX_MODES) filter.set(mode, this.modes.has(mode));
      if (!multicastFits) filter.set('allMulticast', true);
      if (!unicastFits) filter.set('allUnicast', true);
      filter.set('vlans', this.#byVlan);
      filter.setStation(this.station);
      filter.setAddresses(unicastFits ? this.unicast : [], multicastFits ? this.multicast : []);
      filter.clearVlans();
      for (const vlan of this.vlans) if (vlan < VLANS) filter.setVlan(vlan, true);
    }
  }
}
