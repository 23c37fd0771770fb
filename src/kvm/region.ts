import type { BusRegion, IndexWindow, ReadMode, RegionHandle, WriteMode } from './bus.ts';
import type { NativeVm } from './native.ts';

/** As numbered in native/bus.h. */
const READ_MODES: readonly ReadMode[] = ['counter', 'shadow', 'ordered', 'consume', 'leased', 'take', 'trap'];
const WRITE_MODES: readonly WriteMode[] = ['ignore', 'clear', 'stream', 'posted', 'trap'];

function modeBytes<Mode>(order: readonly Mode[], modes: Mode | readonly Mode[]): Uint8Array {
  const list = Array.isArray(modes) ? (modes as readonly Mode[]) : [modes as Mode];
  const bytes = new Uint8Array(list.length);
  // Neighbours mostly have the same.
  for (let from = 0, at = 1; from < list.length; at++) {
    if (at < list.length && list[at] === list[from]) continue;
    bytes.fill(order.indexOf(list[from]!), from, at);
    from = at;
  }
  return bytes;
}

type NativeWindow = NonNullable<Parameters<NativeVm['addRegion']>[0]['window']>;

const nativeWindow = (window: IndexWindow): NativeWindow => ({
  indexOffset: window.index.offset,
  indexSize: window.index.size,
  dataOffset: window.data.offset,
  dataSize: window.data.size,
  space: window.space,
  base: window.base,
  matchMask: window.match?.mask ?? 0,
  matchValue: window.match?.value ?? 0,
  fields: Uint32Array.from(window.address.flatMap(({ mask, shift }) => [mask, shift])),
});

/** A region in the addon, as its device and the VM hold it. */
export class Region implements RegionHandle {
  readonly spec: BusRegion;
  readonly id: number;
  readonly shadow: Uint8Array;
  readonly #native: NativeVm;
  readonly #takes: Takes;
  readonly #detached: (id: number) => void;
  #there = true;

  /** @param detached told when the device takes the region off the bus */
  constructor(native: NativeVm, spec: BusRegion, detached: (id: number) => void) {
    const { id, shadow, takes } = native.addRegion({
      space: spec.space,
      base: spec.base,
      size: spec.size,
      reads: modeBytes(READ_MODES, spec.reads),
      writes: modeBytes(WRITE_MODES, spec.writes),
      counterHz: spec.counter?.hz ?? 0,
      counterBits: spec.counter?.bits ?? 32,
      ownOrder: spec.order === 'own',
      clears: spec.clears ?? 0,
      ...(spec.window && { window: nativeWindow(spec.window) }),
    });
    this.#native = native;
    this.#detached = detached;
    this.spec = spec;
    this.id = id;
    this.shadow = new Uint8Array(shadow ?? new ArrayBuffer(0));
    this.#takes = new Takes(new Uint16Array(takes ?? new ArrayBuffer(0)));
  }

  get index(): number {
    return this.#there ? this.#native.index(this.id) : 0;
  }

  set index(value: number) {
    if (this.#there) this.#native.index(this.id, value >>> 0);
  }

  get counter(): number {
    return this.#there ? this.#native.counter(this.id) : 0;
  }

  set counter(value: number) {
    if (this.#there) this.#native.counter(this.id, value >>> 0);
  }

  lease(ms: number): void {
    if (this.#there) this.#native.lease(this.id, Math.round(ms * 1000));
  }

  offer(offset: number, value: number, left: number): boolean {
    return this.#takes.offer(offset, value, left);
  }

  reads(): number {
    if (!this.#there) return 0;
    const rows = this.#native.counters();
    for (let at = 0; at < rows.length; at += 4) if (rows[at] === this.id) return rows[at + 1]!;
    return 0;
  }

  remove(): void {
    if (!this.#there) return;
    this.#native.removeRegion(this.id);
    this.forget();
  }

  /** The bus has gone, and the region with it. */
  forget(): void {
    if (!this.#there) return;
    this.#there = false;
    this.#detached(this.id);
  }

  /** A read that the guest has made already: tells the device. */
  consumed(offset: number, size: number, value: number): void {
    if (size === 1) this.#takes.taken(offset, value);
    this.spec.consumed?.(offset, size as 1 | 2 | 4, value);
  }
}

/**
 * The bytes of `take` reads: what is read in the low half of a word, what that leaves in the high half. vCPU threads
 * replace the one by the other in one step; here a word changes only where it is still the one of the last offer.
 */
class Takes {
  readonly #words: Uint16Array;
  /** as offered, or as left by a read that the device was told of */
  readonly #last: Uint16Array;

  constructor(words: Uint16Array) {
    this.#words = words;
    this.#last = words.slice();
  }

  offer(offset: number, value: number, left: number): boolean {
    const last = this.#last[offset];
    if (last === undefined) throw new RangeError(`nothing at ${offset} is taken`);
    const word = (value & 0xff) | ((left & 0xff) << 8);
    if (Atomics.compareExchange(this.#words, offset, last, word) !== last) return false;
    this.#last[offset] = word;
    return true;
  }

  taken(offset: number, value: number): void {
    const last = this.#last[offset];
    if (last === undefined) return;
    const left = last >>> 8;
    // Reads of what is left change nothing; there may be some before and after the one that took the offer.
    if (value !== left && value === (last & 0xff)) this.#last[offset] = left | (left << 8);
  }
}
