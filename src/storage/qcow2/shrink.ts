import { alignUp } from './format.ts';
import { l1EntriesFor } from './geometry.ts';
import type { Image } from './image.ts';
import type { Mapping } from './mapping.ts';
import type { Task } from './task.ts';
import type { Zeroer } from './zeroer.ts';

/**
 * Gives up all clusters behind the new end of the disk, and the L2 tables that map nothing else. The file has it
 * when the metadata is flushed next. @throws HostError
 */
export function* shrinkMapping(image: Image, mapping: Mapping, zeroer: Zeroer, size: number): Task {
  const { geometry, header } = image;
  const { clusterSize, l2Coverage, pageSize } = geometry;
  const from = alignUp(size, clusterSize);
  if (from < header.size) yield* zeroer.discard(from, header.size - from, 'forget');
  // Entries behind the disk may belong to a snapshot's saved memory; those are in no active table.
  const end = l1EntriesFor(geometry, header.size);
  for (let index = l1EntriesFor(geometry, size); index < end; index++) {
    const table = mapping.tableOf(index * l2Coverage);
    if (table <= 0) continue;
    const isOurs = yield* mapping.isOwnTable(index);
    if (!isOurs) continue;
    mapping.setTable(index, 0);
    for (let at = 0; at < clusterSize; at += pageSize) mapping.cache.drop(table + at);
    mapping.unreference(table, 1, true);
  }
}
