/** A virtio-blk device as the specification says it (VIRTIO 1.2, 5.2.6), on an array: written apart from the real one. */

export type ModelAnswer = {
  /** bytes of the writable part, from its start on, that are to be there */
  readonly data: Uint8Array;
  /** of the last writable byte, where there is one */
  readonly status: number;
  readonly written: number;
};

const OK = 0;
const IO_ERROR = 1;
const UNSUPPORTED = 2;
const NOTHING = new Uint8Array(0);
const LIMIT = 2 ** 22 - 8;

export class BlockModel {
  content: Uint8Array;
  discards = true;
  zeroes = true;
  readonly #readOnly: boolean;
  readonly #serial: string;

  constructor(content: Uint8Array, readOnly: boolean, serial: string) {
    this.content = content.slice();
    this.#readOnly = readOnly;
    this.#serial = serial;
  }

  resize(size: number): void {
    const next = new Uint8Array(size);
    next.set(this.content.subarray(0, size));
    this.content = next;
  }

  /** What becomes of a request of these readable bytes and so much room. */
  serve(readable: Uint8Array, room: number): ModelAnswer {
    if (room === 0) return { data: NOTHING, status: OK, written: 0 };
    const answer = (status: number, data: Uint8Array = NOTHING): ModelAnswer => ({
      data,
      status,
      written: room,
    });
    if (readable.length < 16) return answer(IO_ERROR);
    const view = new DataView(readable.buffer, readable.byteOffset, readable.length);
    const sector = view.getBigUint64(8, true);
    const body = readable.subarray(16);
    switch (view.getUint32(0, true)) {
      case 0: {
        const at = this.#range(sector, BigInt(room - 1));
        return at < 0 ? answer(IO_ERROR) : answer(OK, this.content.slice(at, at + room - 1));
      }
      case 1: {
        const at = this.#readOnly ? -1 : this.#range(sector, BigInt(body.length));
        if (at < 0) return answer(IO_ERROR);
        this.content.set(body, at);
        return answer(OK);
      }
      case 4:
        return answer(OK);
      case 8:
        return room < 21
          ? answer(IO_ERROR)
          : answer(OK, new TextEncoder().encode(this.#serial.padEnd(20, '\0')));
      case 11:
        return answer(this.discards ? this.#ranges(body, 0) : UNSUPPORTED);
      case 13:
        return answer(this.zeroes ? this.#ranges(body, 1) : UNSUPPORTED);
      default:
        return answer(UNSUPPORTED);
    }
  }

  /** @throws Error where the disk holds anything else */
  check(actual: Uint8Array): void {
    const { content } = this;
    if (actual.length !== content.length) {
      throw new Error(`the disk has ${actual.length} bytes, and it should have ${content.length}`);
    }
    if (Buffer.compare(actual, content) === 0) return;
    const at = actual.findIndex((byte, i) => byte !== content[i]);
    throw new Error(`the disk at 0x${at.toString(16)}: ${actual[at]!}, and it should be ${content[at]!}`);
  }

  /** Where the range begins in bytes, or -1. */
  #range(sector: bigint, length: bigint): number {
    if (length % 512n !== 0n || sector * 512n + length > BigInt(this.content.length)) return -1;
    return Number(sector) * 512;
  }

  #ranges(body: Uint8Array, known: number): number {
    const count = body.length / 16;
    if (this.#readOnly || count === 0 || !Number.isInteger(count) || count > 32) return IO_ERROR;
    const view = new DataView(body.buffer, body.byteOffset, body.length);
    const list: [start: number, end: number][] = [];
    for (let i = 0; i < count; i++) {
      const sectors = view.getUint32(16 * i + 8, true);
      if ((view.getUint32(16 * i + 12, true) & ~known) !== 0) return UNSUPPORTED;
      const at = this.#range(view.getBigUint64(16 * i, true), BigInt(sectors) * 512n);
      if (at < 0 || sectors > LIMIT) return IO_ERROR;
      list.push([at, at + 512 * sectors]);
    }
    for (const [start, end] of list) this.content.fill(0, start, end);
    return OK;
  }
}
