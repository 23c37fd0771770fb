/**
 * A virtqueue's device side as the specification says it (VIRTIO 1.2, 2.7), on a flat copy of guest memory: slow,
 * and written apart from the real one, to be compared with it.
 */
import type { QueueLayout } from '../../src/virtio/queue-layout.ts';

export type ModelChain = { readonly head: number; readonly readable: number[]; readonly writable: number[] };

export class QueueModel {
  /** guest memory; holes are there too, and never named */
  readonly image: Uint8Array;
  readonly #view: DataView;
  readonly #ram: readonly { readonly base: number; readonly size: number }[];
  readonly #queue: QueueLayout;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  next: number;
  used: number;
  interrupts = 0;
  /** the ring made no sense: nothing happens any more */
  broken = false;
  readonly inFlight = new Set<number>();
  #published: number;
  /** chains were used that the device has not seen, and that is not published */
  #refused = false;
  #seen: number;

  constructor(
    image: Uint8Array,
    ram: readonly { readonly base: number; readonly size: number }[],
    queue: QueueLayout,
    options: { readonly indirect: boolean; readonly eventIdx: boolean; readonly start: number },
  ) {
    this.image = image;
    this.#view = new DataView(image.buffer, image.byteOffset);
    this.#ram = ram;
    this.#queue = queue;
    this.#indirect = options.indirect;
    this.#eventIdx = options.eventIdx;
    this.next = this.used = this.#published = this.#seen = options.start;
  }

  /** What the device must be given next. Heads of chains that it must not see are used on the way. */
  pop(): ModelChain | undefined {
    if (this.broken) return undefined;
    const { size, driver } = this.#queue;
    for (let refused = 0; refused < size; refused++) {
      if (this.next === this.#seen) {
        const index = this.#u16(driver + 2);
        if (index === this.next) break;
        if (((index - this.next + 0x10000) & 0xffff) > size) return this.#break();
        this.#seen = index;
      }
      const head = this.#u16(driver + 4 + 2 * (this.next % size));
      if (head >= size || this.inFlight.has(head)) return this.#break();
      this.next = (this.next + 1) % 0x10000;
      const chain = this.#walk(head);
      if (chain !== undefined) {
        this.inFlight.add(head);
        return chain;
      }
      this.#give(head, 0);
      this.#refused = true;
    }
    if (this.#refused) this.flush();
    return undefined;
  }

  push(chain: ModelChain, bytes: Uint8Array): void {
    if (this.broken) return;
    this.inFlight.delete(chain.head);
    chain.writable.slice(0, bytes.length).forEach((at, i) => (this.image[at] = bytes[i]!));
    this.#give(chain.head, bytes.length);
  }

  flush(): void {
    if (this.broken || this.used === this.#published) return;
    this.#refused = false;
    const { size, device, driver } = this.#queue;
    const before = this.#published;
    this.#published = this.used;
    this.#view.setUint16(device + 2, this.used, true);
    if (this.#eventIdx) {
      // Some entry's index, of those given since, is the one that the driver waits for.
      const event = this.#u16(driver + 4 + 2 * size);
      for (let at = before; at !== this.used; at = (at + 1) % 0x10000) if (at === event) this.interrupts++;
    } else if ((this.#u16(driver) & 1) === 0) this.interrupts++;
  }

  disable(): void {
    if (!this.broken && !this.#eventIdx) this.#view.setUint16(this.#queue.device, 1, true);
  }

  enable(): boolean {
    if (this.broken) return false;
    const { size, device, driver } = this.#queue;
    if (this.#eventIdx) this.#view.setUint16(device + 4 + 8 * size, this.next, true);
    else this.#view.setUint16(device, 0, true);
    return this.#u16(driver + 2) !== this.next;
  }

  #give(head: number, written: number): void {
    const at = this.#queue.device + 4 + 8 * (this.used % this.#queue.size);
    this.#view.setUint32(at, head, true);
    this.#view.setUint32(at + 4, written, true);
    this.used = (this.used + 1) % 0x10000;
  }

  #break(): undefined {
    this.broken = true;
  }

  /** The bytes of a chain by their addresses, or undefined where it breaks a rule. */
  #walk(head: number): ModelChain | undefined {
    const { descriptors, size } = this.#queue;
    const chain: ModelChain = { head, readable: [], writable: [] };
    let [table, entries, index, total, nested] = [BigInt(descriptors), size, head, 0, false];
    for (;;) {
      if (index >= entries) return undefined;
      const at = Number(table) + 16 * index;
      const address = this.#view.getBigUint64(at, true);
      const length = this.#view.getUint32(at + 8, true);
      const flags = this.#u16(at + 12);
      if (total === size) return undefined;
      if ((flags & 4) !== 0) {
        const known = this.#indirect && !nested && (flags & 1) === 0;
        if (!known || length === 0 || length % 16 !== 0 || length / 16 > size) return undefined;
        if (!this.#isRam(address, length)) return undefined;
        [table, entries, index, nested] = [address, length / 16, 0, true];
        continue;
      }
      total++;
      if (length === 0 || !this.#isRam(address, length)) return undefined;
      const writable = (flags & 2) !== 0;
      if (!writable && chain.writable.length > 0) return undefined;
      const bytes = writable ? chain.writable : chain.readable;
      for (let i = 0; i < length; i++) bytes.push(Number(address) + i);
      if ((flags & 1) === 0) return chain;
      index = this.#u16(at + 14);
    }
  }

  #isRam(address: bigint, length: number): boolean {
    const end = address + BigInt(length);
    return this.#ram.some(({ base, size }) => address >= BigInt(base) && end <= BigInt(base + size));
  }

  #u16(at: number): number {
    return this.#view.getUint16(at, true);
  }
}
