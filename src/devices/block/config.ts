import { DeviceConfig } from '../../virtio/device-config.ts';
import { MAX_RANGES, MAX_RANGE_SECTORS, SECTOR } from './protocol.ts';

/** Fields of the configuration space in their order (VIRTIO 1.2, 5.2.4). */
const FIELDS = [
  { name: 'capacity', width: 8 },
  { name: 'size_max', width: 4 },
  { name: 'seg_max', width: 4 },
  { name: 'cylinders', width: 2 },
  { name: 'heads', width: 1 },
  { name: 'sectors', width: 1 },
  { name: 'blk_size', width: 4 },
  { name: 'physical_block_exp', width: 1 },
  { name: 'alignment_offset', width: 1 },
  { name: 'min_io_size', width: 2 },
  { name: 'opt_io_size', width: 4 },
  { name: 'writeback', width: 1, writable: true },
  { name: 'unused0', width: 1 },
  { name: 'num_queues', width: 2 },
  { name: 'max_discard_sectors', width: 4 },
  { name: 'max_discard_seg', width: 4 },
  { name: 'discard_sector_alignment', width: 4 },
  { name: 'max_write_zeroes_sectors', width: 4 },
  { name: 'max_write_zeroes_seg', width: 4 },
  { name: 'write_zeroes_may_unmap', width: 1 },
  { name: 'unused1', width: 3 },
] as const;

export type BlockConfig = DeviceConfig<(typeof FIELDS)[number]['name']>;

export type BlockFacts = {
  /** in bytes */
  readonly capacity: number;
  /** logical, in bytes */
  readonly blockSize: number;
  /** in bytes; at least `blockSize` */
  readonly physicalBlockSize: number;
  readonly queues: number;
  readonly queueSize: number;
  readonly discards: boolean;
  /** in bytes */
  readonly discardGranularity: number;
};

/** @param written is called when the driver has written `writeback` */
export function blockConfig(facts: BlockFacts, written: () => void): BlockConfig {
  const config = new DeviceConfig(FIELDS, written);
  const physicalBlocks = facts.physicalBlockSize / facts.blockSize;
  config.set({
    capacity: facts.capacity / SECTOR,
    // A chain has a descriptor for the header and one for the status besides.
    seg_max: Math.max(1, facts.queueSize - 2),
    blk_size: facts.blockSize,
    physical_block_exp: Math.log2(physicalBlocks),
    min_io_size: physicalBlocks,
    writeback: 1,
    num_queues: facts.queues,
    max_write_zeroes_sectors: MAX_RANGE_SECTORS,
    max_write_zeroes_seg: MAX_RANGES,
    write_zeroes_may_unmap: facts.discards ? 1 : 0,
  });
  if (facts.discards) {
    config.set({
      max_discard_sectors: MAX_RANGE_SECTORS,
      max_discard_seg: MAX_RANGES,
      discard_sector_alignment: facts.discardGranularity / SECTOR,
    });
  }
  return config;
}
