import { GuestFault, type GuestMemory, type MemoryWindow } from './guest-memory.ts';

/** What native I/O knows memory by: an I/O ring, or a frame port. */
export type BufferRegistry = {
  register(bytes: Uint8Array): number;
  unregister(buffer: number): void;
};

/** Takes pieces of registered memory: an `IoVector`, or a list of frames. */
export type PieceSink = {
  add(buffer: number, offset: number, length: number): void;
};

type Window = MemoryWindow & { readonly end: number; readonly buffer: number };

/** Guest RAM as registered buffers: turns guest-physical ranges into pieces of them. */
export class GuestBuffers {
  readonly #registry: BufferRegistry;
  #windows: readonly Window[];
  #last: Window | undefined;

  constructor(registry: BufferRegistry, memory: GuestMemory) {
    this.#registry = registry;
    this.#windows = memory.windows.map(({ base, bytes }) => ({
      base,
      bytes,
      end: base + bytes.length,
      buffer: registry.register(bytes),
    }));
    this.#last = this.#windows[0];
  }

  /**
   * Appends the range, one piece for every window that it lies in.
   * @throws GuestFault outside RAM; the sink may have got pieces by then
   */
  append(sink: PieceSink, address: number, length: number): void {
    const last = this.#last;
    if (last !== undefined && address >= last.base && address + length <= last.end) {
      sink.add(last.buffer, address - last.base, length);
      return;
    }
    let at = address;
    let left = length;
    while (left > 0) {
      const window = this.#windows.find(({ base, end }) => at >= base && at < end);
      if (window === undefined) throw new GuestFault(address, length);
      this.#last = window;
      const here = Math.min(left, window.end - at);
      sink.add(window.buffer, at - window.base, here);
      at += here;
      left -= here;
    }
  }

  /** Gives the memory back to whoever owns it, once requests that use it are over. May be called again. */
  release(): void {
    for (const { buffer } of this.#windows) this.#registry.unregister(buffer);
    this.#windows = [];
    this.#last = undefined;
  }
}
