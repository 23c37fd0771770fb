import type { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { PAGE } from './machine.ts';

/** Descriptor flags (VIRTIO 1.2, 2.7.5). */
export const DESC = { next: 1, write: 2, indirect: 4 } as const;

/** A buffer of a request: bytes for the device, or room for its answer. */
export type Buffer = { readonly bytes: Uint8Array } | { readonly room: number };
export type Placed = { readonly address: number; readonly length: number; readonly writable: boolean };

export type RingAddresses = {
  readonly descriptors: number;
  readonly driver: number;
  readonly device: number;
};

/** Finds room in guest RAM; every piece lies over the border of two pages where it is larger than its alignment. */
export class Arena {
  #next: number;
  readonly #end: number;
  readonly #start: number;

  constructor(start: number, end: number) {
    this.#start = this.#next = start;
    this.#end = end;
  }

  take(size: number, alignment = 1): number {
    const border = Math.ceil((this.#next + size) / PAGE) * PAGE;
    const address = Math.floor((border - Math.ceil(size / 2)) / alignment) * alignment;
    this.#next = address + size;
    if (this.#next > this.#end) throw new Error('the test has no memory left');
    return address;
  }

  clear(): void {
    this.#next = this.#start;
  }
}

/** The driver's side of a split virtqueue, in guest memory (2.7). It can do all the wrong things too. */
export class DriverQueue {
  readonly index: number;
  readonly size: number;
  readonly at: RingAddresses;
  readonly #memory: GuestMemory;
  readonly #buffers: Arena;
  readonly #free: number[];
  readonly #chains = new Map<number, { descriptors: number[]; buffers: Placed[] }>();
  availableIndex = 0;
  usedIndex = 0;

  constructor(
    memory: GuestMemory,
    room: { readonly rings: Arena; readonly buffers: Arena },
    index: number,
    size: number,
  ) {
    this.#memory = memory;
    this.#buffers = room.buffers;
    this.index = index;
    this.size = size;
    this.at = {
      descriptors: room.rings.take(16 * size, 16),
      driver: room.rings.take(6 + 2 * size, 2),
      device: room.rings.take(6 + 8 * size, 4),
    };
    // Descriptors are handed out in no particular order, as after some time of use.
    this.#free = Array.from({ length: size }, (_, i) => (i * 5 + 3) % size);
    if (new Set(this.#free).size !== size) this.#free = Array.from({ length: size }, (_, i) => i);
    this.clear();
  }

  /** Empties the rings, as a driver does before it enables them. */
  clear(): void {
    const { descriptors, driver, device } = this.at;
    this.#memory.fill(descriptors, 16 * this.size);
    this.#memory.fill(driver, 6 + 2 * this.size);
    this.#memory.fill(device, 6 + 8 * this.size);
  }

  /** Puts buffers into guest memory. */
  place(buffers: readonly Buffer[]): Placed[] {
    return buffers.map((buffer) => {
      const length = 'bytes' in buffer ? buffer.bytes.length : buffer.room;
      const address = this.#buffers.take(length);
      if ('bytes' in buffer) this.#memory.write(address, buffer.bytes);
      else this.#memory.fill(address, length, 0xee);
      return { address, length, writable: !('bytes' in buffer) };
    });
  }

  writeDescriptor(table: number, index: number, buffer: Placed, flags: number, next = 0): void {
    const at = table + 16 * index;
    this.#memory.writeU64(at, buffer.address);
    this.#memory.writeU32(at + 8, buffer.length);
    this.#memory.writeU16(at + 12, flags | (buffer.writable ? DESC.write : 0));
    this.#memory.writeU16(at + 14, next);
  }

  /** Makes a request of buffers that are in place, visible to the device after {@link publish}; returns its head. */
  chain(buffers: readonly Placed[], options: { indirect?: boolean } = {}): number {
    if (options.indirect === true) {
      const table = this.table(buffers);
      const head = this.descriptor();
      this.writeDescriptor(this.at.descriptors, head, table, DESC.indirect);
      this.available(head, [head], buffers);
      return head;
    }
    const descriptors = buffers.map(() => this.descriptor());
    buffers.forEach((buffer, i) => {
      const next = descriptors[i + 1];
      this.writeDescriptor(
        this.at.descriptors,
        descriptors[i]!,
        buffer,
        next === undefined ? 0 : DESC.next,
        next,
      );
    });
    this.available(descriptors[0]!, descriptors, buffers);
    return descriptors[0]!;
  }

  /** An indirect table in memory. */
  table(buffers: readonly Placed[]): Placed {
    const address = this.#buffers.take(16 * buffers.length, 16);
    buffers.forEach((buffer, i) => {
      const last = i === buffers.length - 1;
      this.writeDescriptor(address, i, buffer, last ? 0 : DESC.next, last ? 0 : i + 1);
    });
    return { address, length: 16 * buffers.length, writable: false };
  }

  /** A free descriptor. */
  descriptor(): number {
    const index = this.#free.shift();
    if (index === undefined) throw new Error('the test has no descriptor left');
    return index;
  }

  /** Puts a head into the available ring. */
  available(head: number, descriptors: number[] = [head], buffers: readonly Placed[] = []): void {
    this.#chains.set(head, { descriptors, buffers: [...buffers] });
    this.#memory.writeU16(this.at.driver + 4 + 2 * (this.availableIndex % this.size), head);
    this.availableIndex = (this.availableIndex + 1) & 0xffff;
  }

  /** Shows the device all that is in the available ring. */
  publish(index = this.availableIndex): void {
    this.#memory.writeU16(this.at.driver + 2, index);
  }

  /** The index that the device has published. */
  get deviceIndex(): number {
    return this.#memory.readU16(this.at.device + 2);
  }

  /** Whether the device has used something that was not collected. */
  get hasUsed(): boolean {
    return this.deviceIndex !== this.usedIndex;
  }

  /** Takes the used entries that there are; their descriptors are free again. */
  collect(): { head: number; written: number; buffers: Placed[] }[] {
    const used = [];
    while (this.hasUsed) {
      const at = this.at.device + 4 + 8 * (this.usedIndex % this.size);
      const head = this.#memory.readU32(at);
      const written = this.#memory.readU32(at + 4);
      const chain = this.#chains.get(head);
      if (chain === undefined) throw new Error(`the device has used ${head}, which it was not given`);
      this.#chains.delete(head);
      this.#free.push(...chain.descriptors);
      this.usedIndex = (this.usedIndex + 1) & 0xffff;
      used.push({ head, written, buffers: chain.buffers });
    }
    return used;
  }

  /** What stands in the writable buffers, joined. */
  reply(buffers: readonly Placed[]): Uint8Array {
    const pieces = buffers
      .filter(({ writable }) => writable)
      .map(({ address, length }) => this.#memory.read(address, length));
    const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      joined.set(piece, at);
      at += piece.length;
    }
    return joined;
  }

  set interruptsWanted(wanted: boolean) {
    this.#memory.writeU16(this.at.driver, wanted ? 0 : 1);
  }

  /** With EVENT_IDX: interrupt once the used index passes this. */
  set usedEvent(index: number) {
    this.#memory.writeU16(this.at.driver + 4 + 2 * this.size, index & 0xffff);
  }

  /** With EVENT_IDX: the device wants a notification once the available index passes this. */
  get availableEvent(): number {
    return this.#memory.readU16(this.at.device + 4 + 8 * this.size);
  }

  /** Without EVENT_IDX: whether the device wants notifications. */
  get notificationsWanted(): boolean {
    return (this.#memory.readU16(this.at.device) & 1) === 0;
  }
}
