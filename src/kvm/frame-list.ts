/** Sizes of the memory that a frame port shares with the addon, as in native/frame_area.h; in bytes. */
const COUNTERS = 64;
const STATUS = 16;
const FILTER = 16 + 128 * 8 + 512;
const SPANS = 8 * 1024;
const RECORD = 16;
const PIECE = 16;

/** records of one list */
export const FRAME_RECORDS = 1024;
/** pieces of memory of all records of one list */
export const FRAME_PIECES = 8192;
/** what one record should have at most */
export const RECORD_PIECES = 2048;

export const AREA = {
  counters: 0,
  status: COUNTERS,
  filter: COUNTERS + STATUS,
  spans: COUNTERS + STATUS + FILTER,
  tx: COUNTERS + STATUS + FILTER + SPANS,
  rx: COUNTERS + STATUS + FILTER + SPANS + RECORD * FRAME_RECORDS,
  txPieces: COUNTERS + STATUS + FILTER + SPANS + 2 * RECORD * FRAME_RECORDS,
  rxPieces: COUNTERS + STATUS + FILTER + SPANS + 2 * RECORD * FRAME_RECORDS + PIECE * FRAME_PIECES,
} as const;

/**
 * Frames that wait to be sent, or buffers that wait for frames, first in, first out. A record is made by {@link add}
 * for every piece of memory, and {@link end}. Nothing is allocated.
 */
export class FrameList {
  /** of the first record that is not over, for the addon */
  first = 0;
  /** records that are not over */
  count = 0;
  readonly #records: Uint32Array;
  readonly #offsets: Float64Array;
  readonly #pieces: Int32Array;
  /** where the pieces of the record that is being made begin, and where they end by now */
  #begun = 0;
  #next = 0;

  constructor(area: ArrayBuffer, records: number, pieces: number) {
    this.#records = new Uint32Array(area, records, (FRAME_RECORDS * RECORD) / 4);
    this.#offsets = new Float64Array(area, pieces, (FRAME_PIECES * PIECE) / 8);
    this.#pieces = new Int32Array(area, pieces, (FRAME_PIECES * PIECE) / 4);
  }

  /** Appends a piece to the record that is being made; what is wrong with it the addon tells when it is used. */
  add(buffer: number, offset: number, length: number): void {
    if (this.#next === FRAME_PIECES) this.#compact();
    const at = this.#next++;
    if (at >= FRAME_PIECES) return;
    this.#offsets[2 * at] = offset;
    this.#pieces[4 * at + 2] = buffer;
    this.#pieces[4 * at + 3] = length;
  }

  /**
   * Ends the record. Where there is no room for it, it is gone and false is returned.
   * @param cookie a number of the caller's, up to 32 bits
   */
  end(cookie = 0): boolean {
    if (this.first + this.count === FRAME_RECORDS) this.#compact();
    if (this.#next > FRAME_PIECES || this.first + this.count === FRAME_RECORDS) {
      this.#next = this.#begun;
      return false;
    }
    const at = 4 * (this.first + this.count++);
    this.#records[at] = this.#begun;
    this.#records[at + 1] = this.#next - this.#begun;
    this.#records[at + 2] = 0;
    this.#records[at + 3] = cookie;
    this.#begun = this.#next;
    return true;
  }

  /** Drops the record that is being made. */
  abandon(): void {
    this.#next = this.#begun;
  }

  /** Whether there may be no room for another record, of up to {@link RECORD_PIECES} pieces. */
  get isFull(): boolean {
    if (this.#isTight()) this.#compact();
    return this.#isTight();
  }

  /** Of the record at `index`, 0 for the first that is not over. */
  cookie(index: number): number {
    return this.#records[4 * (this.first + index) + 3]!;
  }

  /** Bytes that were received into the record at `index`. */
  written(index: number): number {
    return this.#records[4 * (this.first + index) + 2]!;
  }

  /** The first `count` records are over. */
  shift(count: number): void {
    this.count -= count;
    if (this.count > 0) {
      this.first += count;
      return;
    }
    this.clear();
  }

  /** All are. */
  clear(): void {
    this.first = 0;
    this.count = 0;
    this.#begun = 0;
    this.#next = 0;
  }

  #isTight(): boolean {
    return this.first + this.count === FRAME_RECORDS || this.#next > FRAME_PIECES - RECORD_PIECES;
  }

  /** Moves what waits to the beginning, also the record that is being made. */
  #compact(): void {
    const { first, count } = this;
    const records = this.#records;
    const from = count === 0 ? this.#begun : records[4 * first]!;
    if (first === 0 && from === 0) return;
    records.copyWithin(0, 4 * first, 4 * (first + count));
    for (let i = 0; i < count; i++) records[4 * i]! -= from;
    this.#pieces.copyWithin(0, 4 * from, 4 * Math.min(this.#next, FRAME_PIECES));
    this.first = 0;
    this.#begun -= from;
    this.#next -= from;
  }
}
