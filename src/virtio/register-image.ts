/**
 * The bytes that a block of registers reads as, kept whether or not the block is on the bus, and copied to the
 * region's shadow while it is. A number is stored in one piece, so that a vCPU which reads meanwhile sees the old
 * or the new one.
 */
export class RegisterImage {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #shadow: DataView | undefined;

  /** @param size in bytes */
  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
  }

  get size(): number {
    return this.bytes.length;
  }

  /** Shows the registers in a region's shadow, until {@link unbind}; a region that no mode reads so has none. */
  bind(shadow: Uint8Array): void {
    if (shadow.length === 0) return;
    shadow.set(this.bytes);
    this.#shadow = new DataView(shadow.buffer, shadow.byteOffset, shadow.length);
  }

  unbind(): void {
    this.#shadow = undefined;
  }

  /** Little-endian; `size` is 1, 2 or 4 and the bytes lie inside. */
  get(offset: number, size: number): number {
    if (size === 4) return this.#view.getUint32(offset, true);
    return size === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint8(offset);
  }

  set8(offset: number, value: number): void {
    this.#view.setUint8(offset, value);
    this.#shadow?.setUint8(offset, value);
  }

  set16(offset: number, value: number): void {
    this.#view.setUint16(offset, value, true);
    this.#shadow?.setUint16(offset, value, true);
  }

  set32(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
    this.#shadow?.setUint32(offset, value, true);
  }

  /** Replaces the bytes from `offset` on, by words where they are aligned. */
  setBytes(offset: number, bytes: Uint8Array): void {
    let at = 0;
    for (; (offset + at) % 4 === 0 && at + 4 <= bytes.length; at += 4) {
      const word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
      if (this.#view.getInt32(offset + at, true) !== word) this.set32(offset + at, word);
    }
    for (; at < bytes.length; at++) this.set8(offset + at, bytes[at]!);
  }
}
