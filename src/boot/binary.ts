import { join64 } from '../kvm/guest-memory.ts';

/** Reads little-endian fields of a header. Offsets are the caller's to keep in bounds. */
export class Fields {
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  u8(offset: number): number {
    return this.#view.getUint8(offset);
  }

  u16(offset: number): number {
    return this.#view.getUint16(offset, true);
  }

  u32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  /** Inexact above 2^53; every user compares with a limit far below. */
  u64(offset: number): number {
    return join64(this.u32(offset), this.u32(offset + 4));
  }
}

/** The next multiple of `alignment`, a power of two or any other positive number. */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

export function alignDown(value: number, alignment: number): number {
  return Math.floor(value / alignment) * alignment;
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A size for a message: `62 MiB`, rounded up, so that what is too big never reads as if it fitted. */
export function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
