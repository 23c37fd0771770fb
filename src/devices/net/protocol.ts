/** Numbers of virtio-net (VIRTIO 1.2, 5.1). */

export const NET_DEVICE_ID = 1;
/** network controller, Ethernet */
export const NET_PCI_CLASS = 0x02_0000;

/** Feature bits (5.1.3). */
export const NET_F = {
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

/** Bits of the configuration field `status`. */
export const NET_S = { linkUp: 1, announce: 2 } as const;

/** Classes of control commands (5.1.6.5) and the commands of each. */
export const CTRL = {
  rx: 0,
  mac: 1,
  vlan: 2,
  announce: 3,
  mq: 4,
  guestOffloads: 5,
} as const;
export const CTRL_RX = {
  promiscuous: 0,
  allMulticast: 1,
  allUnicast: 2,
  noMulticast: 3,
  noUnicast: 4,
  noBroadcast: 5,
} as const;
export const CTRL_MAC = { tableSet: 0, addressSet: 1 } as const;
export const CTRL_VLAN = { add: 0, remove: 1 } as const;
export const CTRL_ANNOUNCE = { acknowledge: 0 } as const;
export const CTRL_MQ = { pairsSet: 0 } as const;
export const CTRL_GUEST_OFFLOADS = { set: 0 } as const;

export const ACK = { ok: 0, error: 1 } as const;
export type Ack = (typeof ACK)[keyof typeof ACK];

/** bytes of an Ethernet address */
export const ADDRESS = 6;
export const VLANS = 4096;
/** Smallest packet that IPv6 and sane IPv4 can do with, and the largest that a length field tells. */
export const LEAST_MTU = 1280;
export const LARGEST_MTU = 65535;
/** what `max_virtqueue_pairs` may be (5.1.4.1), as far as we go */
export const MAX_PAIRS = 16;
