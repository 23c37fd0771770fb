import { OFFLOAD } from '../../kvm/frame-port.ts';
import type { NetBackend } from '../../net/backend.ts';
import { Features } from '../../virtio/features.ts';
import { NET_F } from './protocol.ts';

const CONTROL = [
  NET_F.ctrlRx,
  NET_F.ctrlRxExtra,
  NET_F.ctrlVlan,
  NET_F.ctrlMacAddr,
  NET_F.guestAnnounce,
] as const;

/**
 * What a card on this back end offers. Checksums and segmentation of what the guest sends are offered on any: a host
 * without offload headers gets whole frames all the same, from the frame port, and one large frame costs guest and
 * device a fraction of the forty that it becomes. Nobody but a host with such headers leaves anything undone in what
 * the guest receives.
 */
export function netFeatures({ vnetHeader, mtu, ports }: NetBackend): Features {
  const bits: number[] = [
    NET_F.mac,
    NET_F.status,
    NET_F.mrgRxbuf,
    NET_F.csum,
    NET_F.hostTso4,
    NET_F.hostTso6,
    NET_F.hostEcn,
    NET_F.speedDuplex,
    NET_F.ctrlVq,
    ...CONTROL,
  ];
  if (mtu !== undefined) bits.push(NET_F.mtu);
  if (ports.length > 1) bits.push(NET_F.mq);
  if (vnetHeader) {
    bits.push(NET_F.guestCsum, NET_F.guestTso4, NET_F.guestTso6, NET_F.guestEcn, NET_F.ctrlGuestOffloads);
  }
  return Features.of(...bits);
}

/** Whether what each feature needs is there too (5.1.3.1). */
export function featuresAgree(features: Features): boolean {
  const has = (bit: number): boolean => features.has(bit);
  const hostTso = has(NET_F.hostTso4) || has(NET_F.hostTso6);
  const guestTso = has(NET_F.guestTso4) || has(NET_F.guestTso6);
  if (hostTso && !has(NET_F.csum)) return false;
  if (has(NET_F.hostEcn) && !hostTso) return false;
  if (guestTso && !has(NET_F.guestCsum)) return false;
  if (has(NET_F.guestEcn) && !guestTso) return false;
  if (has(NET_F.ctrlVq)) return true;
  return ![...CONTROL, NET_F.mq, NET_F.ctrlGuestOffloads].some(has);
}

/** What headers of the driver may ask for, a set of `OFFLOAD`. */
export function hostOffloads(features: Features): number {
  return (
    (features.has(NET_F.csum) ? OFFLOAD.checksum : 0) |
    (features.has(NET_F.hostTso4) ? OFFLOAD.tso4 : 0) |
    (features.has(NET_F.hostTso6) ? OFFLOAD.tso6 : 0) |
    (features.has(NET_F.hostEcn) ? OFFLOAD.ecn : 0)
  );
}

/** What may be left undone for the driver. */
export function guestOffloads(features: Features): number {
  return (
    (features.has(NET_F.guestCsum) ? OFFLOAD.checksum : 0) |
    (features.has(NET_F.guestTso4) ? OFFLOAD.tso4 : 0) |
    (features.has(NET_F.guestTso6) ? OFFLOAD.tso6 : 0) |
    (features.has(NET_F.guestEcn) ? OFFLOAD.ecn : 0)
  );
}
