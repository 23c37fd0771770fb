import { GuestFault, type GuestMemory, type MemoryWindow } from './guest-memory.ts';
import type { IoRing } from './io-ring.ts';
import type { IoVector } from './io-vector.ts';

type Window = MemoryWindow & { readonly end: number; readonly buffer: number };

/** Guest RAM as buffers of an I/O ring: turns guest-physical ranges into pieces of an {@link IoVector}. */
export class GuestBuffers {
  readonly #ring: IoRing;
  #windows: readonly Window[];
  #last: Window | undefined;

  constructor(ring: IoRing, memory: GuestMemory) {
    this.#ring = ring;
    this.#windows = memory.windows.map(({ base, bytes }) => ({
      base,
      bytes,
      end: base + bytes.length,
      buffer: ring.register(bytes),
    }));
    this.#last = this.#windows[0];
  }

  /**
   * Appends the range, one piece for every window that it lies in.
   * @throws GuestFault outside RAM; the vector may have got pieces by then
   */
  append(vector: IoVector, address: number, length: number): void {
    const last = this.#last;
    if (last !== undefined && address >= last.base && address + length <= last.end) {
      vector.add(last.buffer, address - last.base, length);
      return;
    }
    let at = address;
    let left = length;
    while (left > 0) {
      const window = this.#windows.find(({ base, end }) => at >= base && at < end);
      if (window === undefined) throw new GuestFault(address, length);
      this.#last = window;
      const here = Math.min(left, window.end - at);
      vector.add(window.buffer, at - window.base, here);
      at += here;
      left -= here;
    }
  }

  /** Gives the memory back to whoever owns it, once requests that use it are over. May be called again. */
  release(): void {
    for (const { buffer } of this.#windows) this.#ring.unregister(buffer);
    this.#windows = [];
    this.#last = undefined;
  }
}
