import type { GuestMemory } from '../kvm/guest-memory.ts';

/** Whether an activation still stands. Once it has ended, nothing of it writes to guest memory any more. */
export type Lifetime = { ended: boolean };

/**
 * A list of pieces of guest RAM, seen as one run of bytes: the readable or the writable part of a chain, or a
 * range of one that goes to native I/O. Flat arrays that are used again, so a request costs no allocation.
 */
export class Segments {
  /** guest-physical addresses of the first {@link count} pieces; all are inside RAM */
  addresses = new Float64Array(4);
  /** their lengths in bytes, none of them 0 */
  lengths = new Uint32Array(4);
  count = 0;
  /** the sum of the lengths */
  byteLength = 0;
  readonly #memory: GuestMemory;
  readonly #lifetime: Lifetime;
  readonly #writable: boolean;

  /** @param writable whether the device may write to these pieces */
  constructor(memory: GuestMemory, lifetime: Lifetime, writable: boolean) {
    this.#memory = memory;
    this.#lifetime = lifetime;
    this.#writable = writable;
  }

  clear(): void {
    this.count = 0;
    this.byteLength = 0;
  }

  /** Appends a piece, which the caller has checked. */
  add(address: number, length: number): void {
    const at = this.count;
    if (at === this.addresses.length) this.#grow();
    this.addresses[at] = address;
    this.lengths[at] = length;
    this.count = at + 1;
    this.byteLength += length;
  }

  /** Copies bytes from `offset` on into `target`; returns how many there were. */
  read(offset: number, target: Uint8Array): number {
    let done = 0;
    let skip = offset;
    for (let i = 0; i < this.count && done < target.length; i++) {
      const length = this.lengths[i]!;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const size = Math.min(length - skip, target.length - done);
      const address = this.addresses[i]! + skip;
      const view = this.#memory.view(address, size);
      target.set(view ?? this.#memory.read(address, size), done);
      done += size;
      skip = 0;
    }
    return done;
  }

  /** Copies `source` to `offset` and on; returns how many bytes found room: none once the activation has ended. */
  write(offset: number, source: Uint8Array): number {
    if (!this.#mayWrite()) return 0;
    let done = 0;
    let skip = offset;
    for (let i = 0; i < this.count && done < source.length; i++) {
      const length = this.lengths[i]!;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const size = Math.min(length - skip, source.length - done);
      const piece = size === source.length ? source : source.subarray(done, done + size);
      const address = this.addresses[i]! + skip;
      const view = this.#memory.view(address, size);
      if (view !== undefined) view.set(piece);
      else this.#memory.write(address, piece);
      done += size;
      skip = 0;
    }
    return done;
  }

  /** Sets up to `length` bytes from `offset` on; returns how many there were, as {@link write}. */
  fill(offset: number, length: number, value = 0): number {
    if (!this.#mayWrite()) return 0;
    let left = length;
    let skip = offset;
    for (let i = 0; i < this.count && left > 0; i++) {
      const here = this.lengths[i]!;
      if (skip >= here) {
        skip -= here;
        continue;
      }
      const size = Math.min(here - skip, left);
      this.#memory.fill(this.addresses[i]! + skip, size, value);
      left -= size;
      skip = 0;
    }
    return length - left;
  }

  /** Appends the pieces of a range to `target`, for native I/O; returns the bytes covered. */
  slice(offset: number, length: number, target: Segments): number {
    let left = length;
    let skip = offset;
    for (let i = 0; i < this.count && left > 0; i++) {
      const here = this.lengths[i]!;
      if (skip >= here) {
        skip -= here;
        continue;
      }
      const size = Math.min(here - skip, left);
      target.add(this.addresses[i]! + skip, size);
      left -= size;
      skip = 0;
    }
    return length - left;
  }

  /** The bytes themselves as views, without a copy: at least one a piece. */
  views(): Uint8Array[] {
    const views: Uint8Array[] = [];
    for (let i = 0; i < this.count; i++)
      views.push(...this.#memory.slices(this.addresses[i]!, this.lengths[i]!));
    return views;
  }

  /** @throws RangeError past the end, as the other numbers: the device has not looked at {@link byteLength} */
  readU8(offset: number): number {
    return this.#memory.readU8(this.#at(offset, 1));
  }

  readU16(offset: number): number {
    const address = this.#whole(offset, 2);
    if (address >= 0) return this.#memory.readU16(address);
    return this.readU8(offset) | (this.readU8(offset + 1) << 8);
  }

  readU32(offset: number): number {
    const address = this.#whole(offset, 4);
    if (address >= 0) return this.#memory.readU32(address);
    return (this.readU16(offset) | (this.readU16(offset + 2) << 16)) >>> 0;
  }

  /** Inexact above 2^53. */
  readU64(offset: number): number {
    return this.readU32(offset + 4) * 2 ** 32 + this.readU32(offset);
  }

  writeU8(offset: number, value: number): void {
    if (!this.#mayWrite()) return;
    this.#memory.writeU8(this.#at(offset, 1), value);
  }

  writeU16(offset: number, value: number): void {
    this.writeU8(offset, value & 0xff);
    this.writeU8(offset + 1, (value >>> 8) & 0xff);
  }

  writeU32(offset: number, value: number): void {
    this.writeU16(offset, value & 0xffff);
    this.writeU16(offset + 2, value >>> 16);
  }

  writeU64(offset: number, value: number): void {
    this.writeU32(offset, value % 2 ** 32);
    this.writeU32(offset + 4, Math.floor(value / 2 ** 32));
  }

  #mayWrite(): boolean {
    if (!this.#writable) throw new TypeError('a device-readable segment is not to be written');
    return !this.#lifetime.ended;
  }

  /** Address of `size` bytes at `offset` where they lie in one piece, else -1. */
  #whole(offset: number, size: number): number {
    let skip = offset;
    for (let i = 0; i < this.count; i++) {
      const length = this.lengths[i]!;
      if (skip < length) return skip + size <= length ? this.addresses[i]! + skip : -1;
      skip -= length;
    }
    return -1;
  }

  #at(offset: number, size: number): number {
    const address = this.#whole(offset, size);
    if (address < 0) throw new RangeError(`offset ${offset} is past the end of a chain`);
    return address;
  }

  #grow(): void {
    const addresses = new Float64Array(2 * this.addresses.length);
    addresses.set(this.addresses);
    const lengths = new Uint32Array(addresses.length);
    lengths.set(this.lengths);
    this.addresses = addresses;
    this.lengths = lengths;
  }
}
