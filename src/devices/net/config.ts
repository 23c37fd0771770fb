import { DeviceConfig } from '../../virtio/device-config.ts';
import { NET_S } from './protocol.ts';

/** Fields of the configuration space in their order (VIRTIO 1.2, 5.1.4). */
const FIELDS = [
  { name: 'mac', width: 6 },
  { name: 'status', width: 2 },
  { name: 'max_virtqueue_pairs', width: 2 },
  { name: 'mtu', width: 2 },
  { name: 'speed', width: 4 },
  { name: 'duplex', width: 1 },
] as const;

export type NetConfig = DeviceConfig<(typeof FIELDS)[number]['name']>;

/** In Mbit/s, what Linux's taps say of themselves: bridges and bonds weigh links by it. */
const SPEED = 10_000;
const FULL_DUPLEX = 1;

export type NetFacts = {
  readonly mac: Uint8Array;
  readonly link: boolean;
  readonly pairs: number;
  /** in bytes; undefined where it is not told */
  readonly mtu: number | undefined;
};

export function netConfig({ mac, link, pairs, mtu }: NetFacts): NetConfig {
  const config = new DeviceConfig(FIELDS);
  config.set({
    mac,
    status: link ? NET_S.linkUp : 0,
    max_virtqueue_pairs: pairs,
    mtu: mtu ?? 0,
    speed: SPEED,
    duplex: FULL_DUPLEX,
  });
  return config;
}
