import type { GuestMemory } from '../kvm/guest-memory.ts';

/** What a compiler and the processor must not move memory accesses across. */
const fence = new Int32Array(1);

/**
 * Little-endian words of guest memory at a fixed place that was checked to be RAM: a typed array over the guest's
 * pages where they lie in one window, else through {@link GuestMemory}. Indices are the caller's to keep in bounds.
 *
 * `load` and `publish` order other accesses: a load is not overtaken by later reads, a publish comes after all
 * earlier writes and before all later reads. On x86 that takes a full barrier after the store, which a sequentially
 * consistent store of V8 is (xchg); that the buffer is not a SharedArrayBuffer changes nothing in the code made.
 */
export class GuestWords16 {
  readonly #memory: GuestMemory;
  readonly #address: number;
  readonly #words: Uint16Array | undefined;

  constructor(memory: GuestMemory, address: number, length: number) {
    const view = memory.view(address, 2 * length);
    this.#memory = memory;
    this.#address = address;
    this.#words =
      view !== undefined && view.byteOffset % 2 === 0
        ? new Uint16Array(view.buffer, view.byteOffset, length)
        : undefined;
  }

  get(index: number): number {
    const words = this.#words;
    return words !== undefined ? words[index]! : this.#memory.readU16(this.#address + 2 * index);
  }

  load(index: number): number {
    const words = this.#words;
    if (words !== undefined) return Atomics.load(words, index);
    const value = this.#memory.readU16(this.#address + 2 * index);
    Atomics.add(fence, 0, 0);
    return value;
  }

  publish(index: number, value: number): void {
    const words = this.#words;
    if (words !== undefined) {
      Atomics.store(words, index, value);
      return;
    }
    Atomics.add(fence, 0, 0);
    this.#memory.writeU16(this.#address + 2 * index, value);
    Atomics.add(fence, 0, 0);
  }
}

/** 32-bit words, as {@link GuestWords16}. */
export class GuestWords32 {
  readonly #memory: GuestMemory;
  readonly #address: number;
  readonly #words: Uint32Array | undefined;

  constructor(memory: GuestMemory, address: number, length: number) {
    const view = memory.view(address, 4 * length);
    this.#memory = memory;
    this.#address = address;
    this.#words =
      view !== undefined && view.byteOffset % 4 === 0
        ? new Uint32Array(view.buffer, view.byteOffset, length)
        : undefined;
  }

  get(index: number): number {
    const words = this.#words;
    return words !== undefined ? words[index]! : this.#memory.readU32(this.#address + 4 * index);
  }

  set(index: number, value: number): void {
    const words = this.#words;
    if (words !== undefined) words[index] = value;
    else this.#memory.writeU32(this.#address + 4 * index, value);
  }
}
