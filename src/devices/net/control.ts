import type { Chain } from '../../virtio/chain.ts';
import { Features } from '../../virtio/features.ts';
import { guestOffloads } from './features.ts';
import {
  ACK,
  ADDRESS,
  CTRL,
  CTRL_ANNOUNCE,
  CTRL_GUEST_OFFLOADS,
  CTRL_MAC,
  CTRL_MQ,
  CTRL_RX,
  CTRL_VLAN,
  NET_F,
  VLANS,
  type Ack,
} from './protocol.ts';
import { RX_MODES, type ReceiveFilter } from './receive-filter.ts';

/** class and command */
const HEADER = 2;
/** A table of MAC addresses in a command has at most so many, of each kind. */
const TABLE_LIMIT = 4096;
const LONGEST = HEADER + 2 * (4 + ADDRESS * TABLE_LIMIT);

/** What commands change. */
export type ControlTarget = {
  readonly filter: ReceiveFilter;
  /** pairs of queues that there are */
  readonly pairs: number;
  setAddress(address: Uint8Array): void;
  announced(): void;
  setPairs(count: number): void;
  setOffloads(offloads: number): void;
};

/** Carries out a command of the driver's (5.1.6.5). Returns the bytes written: 1, or 0 where there is no room. */
export function serveControl(chain: Chain, features: Features, target: ControlTarget): number {
  const { readable, writable } = chain;
  if (writable.byteLength === 0) return 0;
  let ack: Ack = ACK.error;
  if (readable.byteLength >= HEADER && readable.byteLength <= LONGEST) {
    const bytes = new Uint8Array(readable.byteLength);
    readable.read(0, bytes);
    if (carryOut(bytes[0]!, bytes[1]!, bytes.subarray(HEADER), features, target)) ack = ACK.ok;
  }
  writable.writeU8(0, ack);
  return 1;
}

function carryOut(
  kind: number,
  command: number,
  data: Uint8Array,
  features: Features,
  target: ControlTarget,
): boolean {
  switch (kind) {
    case CTRL.rx:
      return setMode(command, data, features, target);
    case CTRL.mac:
      return setAddresses(command, data, features, target);
    case CTRL.vlan:
      return setVlan(command, data, features, target);
    case CTRL.announce:
      if (!features.has(NET_F.guestAnnounce) || command !== CTRL_ANNOUNCE.acknowledge) return false;
      target.announced();
      return true;
    case CTRL.mq: {
      if (!features.has(NET_F.mq) || command !== CTRL_MQ.pairsSet || data.length < 2) return false;
      const pairs = view(data).getUint16(0, true);
      if (pairs < 1 || pairs > target.pairs) return false;
      target.setPairs(pairs);
      return true;
    }
    case CTRL.guestOffloads:
      return setOffloads(command, data, features, target);
    default:
      return false;
  }
}

function setMode(command: number, data: Uint8Array, features: Features, { filter }: ControlTarget): boolean {
  const needed = command <= CTRL_RX.allMulticast ? NET_F.ctrlRx : NET_F.ctrlRxExtra;
  const mode = RX_MODES[command];
  if (mode === undefined || !features.has(needed) || data.length < 1) return false;
  filter.setMode(mode, data[0] !== 0);
  return true;
}

function setAddresses(command: number, data: Uint8Array, features: Features, target: ControlTarget): boolean {
  if (command === CTRL_MAC.addressSet) {
    if (!features.has(NET_F.ctrlMacAddr) || data.length < ADDRESS) return false;
    target.setAddress(data.slice(0, ADDRESS));
    return true;
  }
  if (command !== CTRL_MAC.tableSet || !features.has(NET_F.ctrlRx)) return false;
  const unicast = readTable(data, 0);
  if (unicast === undefined) return false;
  const multicast = readTable(data, 4 + ADDRESS * unicast.length);
  if (multicast === undefined) return false;
  target.filter.setTable(unicast, multicast);
  return true;
}

/** A number of addresses and the addresses; undefined where they are not all there. */
function readTable(data: Uint8Array, offset: number): Uint8Array[] | undefined {
  if (data.length < offset + 4) return undefined;
  const count = view(data).getUint32(offset, true);
  const start = offset + 4;
  if (count > TABLE_LIMIT || data.length < start + ADDRESS * count) return undefined;
  return Array.from({ length: count }, (_, i) => {
    const at = start + ADDRESS * i;
    return data.slice(at, at + ADDRESS);
  });
}

function setVlan(command: number, data: Uint8Array, features: Features, { filter }: ControlTarget): boolean {
  if (!features.has(NET_F.ctrlVlan) || data.length < 2) return false;
  if (command !== CTRL_VLAN.add && command !== CTRL_VLAN.remove) return false;
  const vlan = view(data).getUint16(0, true);
  if (vlan >= VLANS) return false;
  filter.setVlan(vlan, command === CTRL_VLAN.add);
  return true;
}

/** The offloads are told as the bits of the features that they are (5.1.6.5.6.1). */
function setOffloads(command: number, data: Uint8Array, features: Features, target: ControlTarget): boolean {
  if (!features.has(NET_F.ctrlGuestOffloads) || command !== CTRL_GUEST_OFFLOADS.set) return false;
  if (data.length < 8) return false;
  const wanted = new Features(view(data).getUint32(0, true), view(data).getUint32(4, true));
  const known = Features.of(
    ...[NET_F.guestCsum, NET_F.guestTso4, NET_F.guestTso6, NET_F.guestEcn].filter((bit) => features.has(bit)),
  );
  if (!wanted.isSubsetOf(known)) return false;
  target.setOffloads(guestOffloads(wanted));
  return true;
}

function view(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}
