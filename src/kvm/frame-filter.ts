import { AREA } from './frame-list.ts';

/** Flags as in native/frame_area.h. */
const FLAG = {
  promiscuous: 1,
  allMulticast: 2,
  allUnicast: 4,
  noMulticast: 8,
  noUnicast: 16,
  noBroadcast: 32,
  vlans: 64,
} as const;

export type FilterMode = keyof typeof FLAG;

/** addresses that a filter has room for, beside the station's own */
export const FILTER_ADDRESSES = 128;

/** Which received frames are for this station; the addon looks at it for every frame. All are, to begin with. */
export class FrameFilter {
  readonly #flags: Uint32Array;
  readonly #counts: Uint16Array;
  readonly #station: Uint8Array;
  readonly #addresses: Uint8Array;
  readonly #vlans: Uint32Array;

  constructor(area: ArrayBuffer) {
    this.#flags = new Uint32Array(area, AREA.filter, 1);
    this.#counts = new Uint16Array(area, AREA.filter + 4, 2);
    this.#station = new Uint8Array(area, AREA.filter + 8, 6);
    this.#addresses = new Uint8Array(area, AREA.filter + 16, FILTER_ADDRESSES * 8);
    this.#vlans = new Uint32Array(area, AREA.filter + 16 + FILTER_ADDRESSES * 8, 128);
  }

  /** `vlans`: only frames of VLANs that are set, and those of none. `promiscuous` goes before all others. */
  set(mode: FilterMode, on: boolean): void {
    this.#flags[0] = on ? this.#flags[0]! | FLAG[mode] : this.#flags[0]! & ~FLAG[mode];
  }

  /** 6 bytes */
  setStation(address: Uint8Array): void {
    this.#station.set(address);
  }

  /** Addresses of 6 bytes each, together at most {@link FILTER_ADDRESSES}. @throws RangeError for more */
  setAddresses(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): void {
    if (unicast.length + multicast.length > FILTER_ADDRESSES) throw new RangeError('too many addresses');
    this.#counts[0] = unicast.length;
    this.#counts[1] = multicast.length;
    [...unicast, ...multicast].forEach((address, i) => this.#addresses.set(address, 8 * i));
  }

  /** @param vlan 0 to 4095 */
  setVlan(vlan: number, on: boolean): void {
    const word = this.#vlans[vlan >>> 5]!;
    const bit = 1 << (vlan & 31);
    this.#vlans[vlan >>> 5] = on ? word | bit : word & ~bit;
  }

  clearVlans(): void {
    this.#vlans.fill(0);
  }
}
