import { DeviceConfig } from '../../virtio/device-config.ts';
import { TAG_SIZE } from './protocol.ts';

/** Fields of the configuration space in their order (VIRTIO 1.2, 5.11.4). */
const FIELDS = [
  { name: 'tag', width: TAG_SIZE },
  { name: 'num_request_queues', width: 4 },
] as const;

export type FsConfig = DeviceConfig<(typeof FIELDS)[number]['name']>;

/** @throws RangeError for a tag that is none */
export function fsConfig(tag: string, queues: number): FsConfig {
  const text = Buffer.from(tag, 'utf8');
  if (text.length === 0 || text.length > TAG_SIZE || tag.includes('\0')) {
    throw new RangeError(`the tag of a shared folder has 1 to ${TAG_SIZE} bytes: '${tag}'`);
  }
  const config = new DeviceConfig(FIELDS);
  const bytes = new Uint8Array(TAG_SIZE);
  bytes.set(text);
  config.set({ tag: bytes, num_request_queues: queues });
  return config;
}
