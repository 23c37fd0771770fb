/**
 * Guest-physical memory as TypeScript sees it, and the one place where a number that came from the guest is
 * turned into an address. Whatever lies outside RAM ends as a {@link GuestFault}; device code catches that one
 * class and answers with a status, an error reply or DEVICE_NEEDS_RESET.
 */
import type { PageRanges } from './page-ranges.ts';

/** One piece of guest RAM: `bytes` shows guest-physical addresses from `base` on. */
export type MemoryWindow = {
  /** guest-physical address of the first byte */
  readonly base: number;
  /** the pages themselves, shared with the guest; at most 2 GiB, see {@link WINDOW_LIMIT} */
  readonly bytes: Uint8Array;
};

/** Size limit of one window in bytes: V8 on Node 20 ends one ArrayBuffer at 4 GiB, DataView offsets stay int31. */
export const WINDOW_LIMIT = 2 ** 31;

/** The guest named memory that it does not have. */
export class GuestFault extends Error {
  override readonly name = 'GuestFault';
  /** guest-physical address of the refused access */
  readonly address: number;
  /** its length in bytes */
  readonly length: number;

  constructor(address: number, length: number) {
    super(`guest memory access outside RAM: ${length} bytes at 0x${address.toString(16)}`);
    this.address = address;
    this.length = length;
  }
}

/** How pages of guest RAM are given back to the host. */
export type PageReclaim = {
  /** why none can be given back, in a few words for the log; undefined where they can */
  readonly refusal: string | undefined;
  /** what a page holds when it is touched again: zeros, or the bytes of the file behind it */
  readonly leaves: 'zeros' | 'file';
  /**
   * Gives back the whole pages in ranges of guest-physical addresses, in one call of the host; returns how many
   * bytes that are. @throws GuestFault outside RAM, KvmError where the host refuses, e.g. for locked memory
   */
  discard(ranges: PageRanges): number;
};

/** Joins the halves of a 64-bit guest number; above 2^53 the result is inexact but still far outside any RAM. */
export function join64(low: number, high: number): number {
  return (high >>> 0) * 0x1_0000_0000 + (low >>> 0);
}

type Window = MemoryWindow & { readonly end: number; readonly view: DataView };

export class GuestMemory {
  /** sorted by base, none overlapping */
  readonly #windows: readonly Window[];
  /** there where the pages are the host's to take back */
  readonly reclaim: PageReclaim | undefined;
  #last: Window;

  constructor(windows: readonly MemoryWindow[], reclaim?: PageReclaim) {
    this.reclaim = reclaim;
    const sorted = windows
      .map(({ base, bytes }) => ({
        base,
        bytes,
        end: base + bytes.length,
        view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
      }))
      .sort((a, b) => a.base - b.base);
    const first = sorted[0];
    if (first === undefined) throw new RangeError('guest memory needs at least one window');
    sorted.forEach((window, i) => {
      const next = sorted[i + 1];
      if (window.bytes.length > WINDOW_LIMIT) throw new RangeError('a memory window is at most 2 GiB');
      if (next !== undefined && next.base < window.end) throw new RangeError('memory windows overlap');
    });
    this.#windows = sorted;
    this.#last = first;
  }

  /** Bytes of RAM in all. */
  get size(): number {
    return this.#windows.reduce((sum, window) => sum + window.bytes.length, 0);
  }

  /** The windows in ascending order, for those who keep views of their own. */
  get windows(): readonly MemoryWindow[] {
    return this.#windows;
  }

  /** RAM as guest-physical ranges, neighbours joined, in ascending order. */
  get ranges(): { base: number; size: number }[] {
    const ranges: { base: number; size: number }[] = [];
    for (const { base, bytes } of this.#windows) {
      const previous = ranges.at(-1);
      if (previous !== undefined && previous.base + previous.size === base) previous.size += bytes.length;
      else ranges.push({ base, size: bytes.length });
    }
    return ranges;
  }

  /** Whether all of `length` bytes from `address` on are RAM. */
  contains(address: number, length: number): boolean {
    let at = address;
    const end = address + length;
    if (!(address >= 0 && length >= 0 && Number.isSafeInteger(end))) return false;
    do {
      const window = this.#find(at);
      if (window === undefined) return false;
      at = window.end;
    } while (at < end);
    return true;
  }

  /**
   * The bytes themselves where they lie in one window, else undefined; never a copy.
   * @throws GuestFault outside RAM
   */
  view(address: number, length: number): Uint8Array | undefined {
    const window = this.#at(address, length);
    if (address + length <= window.end)
      return window.bytes.subarray(address - window.base, address - window.base + length);
    if (!this.contains(address, length)) throw new GuestFault(address, length);
    return undefined;
  }

  /**
   * The bytes as the pieces they lie in: one, or one more for every window border crossed; never a copy.
   * @throws GuestFault outside RAM
   */
  slices(address: number, length: number): Uint8Array[] {
    if (!this.contains(address, length)) throw new GuestFault(address, length);
    const slices: Uint8Array[] = [];
    for (let at = address, left = length; left > 0;) {
      const window = this.#at(at, 1);
      const count = Math.min(left, window.end - at);
      slices.push(window.bytes.subarray(at - window.base, at - window.base + count));
      at += count;
      left -= count;
    }
    return slices;
  }

  /** A copy of guest memory. @throws GuestFault outside RAM */
  read(address: number, length: number): Uint8Array {
    const one = this.view(address, length);
    if (one !== undefined) return one.slice();
    const copy = new Uint8Array(length);
    let at = 0;
    for (const slice of this.slices(address, length)) {
      copy.set(slice, at);
      at += slice.length;
    }
    return copy;
  }

  /** Copies `bytes` into guest memory. @throws GuestFault outside RAM, with nothing written */
  write(address: number, bytes: Uint8Array): void {
    let at = 0;
    for (const slice of this.slices(address, bytes.length)) {
      slice.set(bytes.subarray(at, at + slice.length));
      at += slice.length;
    }
  }

  /** Sets `length` bytes to `value`. @throws GuestFault outside RAM, with nothing written */
  fill(address: number, length: number, value = 0): void {
    for (const slice of this.slices(address, length)) slice.fill(value);
  }

  readU8(address: number): number {
    const window = this.#at(address, 1);
    return window.view.getUint8(address - window.base);
  }

  readU16(address: number): number {
    const window = this.#at(address, 2);
    if (address + 2 <= window.end) return window.view.getUint16(address - window.base, true);
    return this.readU8(address) | (this.readU8(address + 1) << 8);
  }

  readU32(address: number): number {
    const window = this.#at(address, 4);
    if (address + 4 <= window.end) return window.view.getUint32(address - window.base, true);
    return (this.readU16(address) | (this.readU16(address + 2) << 16)) >>> 0;
  }

  /** A 64-bit number as a JavaScript number; inexact above 2^53, which no valid guest address reaches. */
  readU64(address: number): number {
    return join64(this.readU32(address), this.readU32(address + 4));
  }

  writeU8(address: number, value: number): void {
    const window = this.#at(address, 1);
    window.view.setUint8(address - window.base, value);
  }

  writeU16(address: number, value: number): void {
    const window = this.#at(address, 2);
    if (address + 2 <= window.end) window.view.setUint16(address - window.base, value, true);
    else this.write(address, Uint8Array.of(value, value >>> 8));
  }

  writeU32(address: number, value: number): void {
    const window = this.#at(address, 4);
    if (address + 4 <= window.end) window.view.setUint32(address - window.base, value, true);
    else this.write(address, Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24));
  }

  writeU64(address: number, value: number): void {
    if (!this.contains(address, 8)) throw new GuestFault(address, 8);
    this.writeU32(address, value % 0x1_0000_0000);
    this.writeU32(address + 4, Math.floor(value / 0x1_0000_0000));
  }

  /** The window that `address` lies in. @throws GuestFault where that, or the length, is not sane */
  #at(address: number, length: number): Window {
    const window = this.#find(address);
    if (window === undefined || !(length >= 0)) throw new GuestFault(address, length);
    return window;
  }

  #find(address: number): Window | undefined {
    const last = this.#last;
    if (address >= last.base && address < last.end) return last;
    for (const window of this.#windows) {
      if (address >= window.base && address < window.end) {
        this.#last = window;
        return window;
      }
    }
    return undefined;
  }
}
