/** Before an answer to `guest-sync-delimited`; no byte of any other answer, which is UTF-8. */
export const SENTINEL = 0xff;
const NEWLINE = 0x0a;

/** One line of the agent, and whether the sentinel came before it. */
export type RawMessage = { readonly bytes: Buffer; readonly delimited: boolean };

/** Cuts what comes from the agent into messages, and bounds what waits for the end of one. */
export class MessageReader {
  readonly #limit: number;
  readonly #deliver: (message: RawMessage) => void;
  /** the message in the making, of which the first {@link #length} bytes are there */
  #begun = Buffer.alloc(0);
  #length = 0;
  #delimited = false;

  /** @param limit largest message, in bytes */
  constructor(limit: number, deliver: (message: RawMessage) => void) {
    this.#limit = limit;
    this.#deliver = deliver;
  }

  /** Returns false where a message is larger than the limit: nothing that follows makes sense then. */
  feed(bytes: Buffer): boolean {
    for (let at = 0; at < bytes.length;) {
      const newline = bytes.indexOf(NEWLINE, at);
      const end = newline < 0 ? bytes.length : newline;
      const sentinel = bytes.subarray(at, end).lastIndexOf(SENTINEL);
      if (sentinel >= 0) {
        // What came before it is what is left of something else.
        this.#restart();
        this.#delimited = true;
        at += sentinel + 1;
      }
      if (this.#length + end - at > this.#limit) return false;
      if (newline < 0) {
        this.#keep(bytes.subarray(at));
        return true;
      }
      let line = bytes.subarray(at, end);
      if (this.#length > 0) {
        this.#keep(line);
        line = this.#begun.subarray(0, this.#length);
      }
      const message = { bytes: line, delimited: this.#delimited };
      this.#restart();
      at = newline + 1;
      if (message.bytes.length > 0) this.#deliver(message);
    }
    return true;
  }

  /** Copies: a guest that sends byte by byte does not make the host hold an object for each. */
  #keep(piece: Buffer): void {
    const length = this.#length + piece.length;
    if (length > this.#begun.length) {
      const larger = Buffer.alloc(Math.min(Math.max(2 * length, 256), this.#limit));
      this.#begun.copy(larger, 0, 0, this.#length);
      this.#begun = larger;
    }
    piece.copy(this.#begun, this.#length);
    this.#length = length;
  }

  #restart(): void {
    this.#begun = Buffer.alloc(0);
    this.#length = 0;
    this.#delimited = false;
  }
}
