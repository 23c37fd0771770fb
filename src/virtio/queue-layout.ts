import type { GuestMemory } from '../kvm/guest-memory.ts';

/** Largest queue that is offered; the specification allows 32768 (VIRTIO 1.2, 2.7). */
export const QUEUE_SIZE_LIMIT = 1024;

/** Where the three parts of a split virtqueue lie, as guest-physical addresses. */
export type QueueLayout = {
  /** entries, a power of two */
  readonly size: number;
  /** descriptor table, 16 bytes an entry, aligned to 16 */
  readonly descriptors: number;
  /** available ring, 6 bytes and 2 an entry, aligned to 2 */
  readonly driver: number;
  /** used ring, 6 bytes and 8 an entry, aligned to 4 */
  readonly device: number;
};

/** What is wrong with a queue as the driver has set it up, or undefined (VIRTIO 1.2, 2.7). */
export function layoutFault(layout: QueueLayout, sizeLimit: number, memory: GuestMemory): string | undefined {
  const { size } = layout;
  if (!Number.isInteger(size) || size < 1 || size > sizeLimit || (size & (size - 1)) !== 0) {
    return `size ${size} is no power of two up to ${sizeLimit}`;
  }
  const parts = [
    { name: 'descriptor table', address: layout.descriptors, bytes: 16 * size, alignment: 16 },
    { name: 'available ring', address: layout.driver, bytes: 6 + 2 * size, alignment: 2 },
    { name: 'used ring', address: layout.device, bytes: 6 + 8 * size, alignment: 4 },
  ];
  for (const { name, address, bytes, alignment } of parts) {
    if (address % alignment !== 0) return `${name} is not aligned to ${alignment}`;
    if (!memory.contains(address, bytes)) return `${name} is outside RAM`;
  }
  for (const [i, a] of parts.entries()) {
    for (const b of parts.slice(i + 1)) {
      if (a.address < b.address + b.bytes && b.address < a.address + a.bytes) {
        return `${a.name} and ${b.name} overlap`;
      }
    }
  }
  return undefined;
}
