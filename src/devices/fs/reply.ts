import { ATTRIBUTE, type FileCall } from '../../kvm/file-calls.ts';
import type { Node } from './nodes.ts';
import type { Owners } from './owners.ts';
import { OUT_HEADER } from './protocol.ts';

/** bytes of the largest answer but for a READ's */
const ROOM = 128 * 1024;
const HEAD = OUT_HEADER / 4;

/** How long the guest's kernel may trust what it was told, in whole seconds. */
export type Timeouts = { readonly entry: number; readonly attributes: number; readonly negative: number };

/** The answer that is being made: one at a time, sent before the next. */
export class Reply {
  /** header first; what follows is at {@link OUT_HEADER} */
  readonly bytes = new Uint8Array(ROOM);
  readonly #words = new Uint32Array(this.bytes.buffer);
  readonly #owners: Owners;
  readonly #timeouts: Timeouts;

  constructor(owners: Owners, timeouts: Timeouts) {
    this.#owners = owners;
    this.#timeouts = timeouts;
  }

  /** The most that one can have behind its header. */
  get room(): number {
    return ROOM - OUT_HEADER;
  }

  header(length: number, error: number, uniqueLow: number, uniqueHigh: number): void {
    const words = this.#words;
    words[0] = length;
    words[1] = error;
    words[2] = uniqueLow;
    words[3] = uniqueHigh;
  }

  /** A word behind the header, at `offset` in bytes. */
  u32(offset: number, value: number): void {
    this.#words[HEAD + (offset >>> 2)] = value;
  }

  u64(offset: number, value: number): void {
    const at = HEAD + (offset >>> 2);
    this.#words[at] = value >>> 0;
    this.#words[at + 1] = Math.floor(value / 2 ** 32);
  }

  zero(offset: number, length: number): void {
    this.bytes.fill(0, OUT_HEADER + offset, OUT_HEADER + offset + length);
  }

  data(offset: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, OUT_HEADER + offset);
  }

  /** struct fuse_entry_out: a name that there is. */
  entry(offset: number, node: Node, call: FileCall): void {
    const words = this.#words;
    const at = HEAD + (offset >>> 2);
    words[at] = node.index;
    words[at + 1] = node.generation;
    words[at + 2] = words[at + 3] = 0;
    words[at + 4] = this.#timeouts.entry;
    words[at + 5] = 0;
    words[at + 6] = this.#timeouts.attributes;
    words[at + 7] = words[at + 8] = words[at + 9] = 0;
    this.#attributes(at + 10, call);
  }

  /** The same for a name that there is not. */
  negativeEntry(offset: number): void {
    this.zero(offset, 128);
    this.#words[HEAD + (offset >>> 2) + 4] = this.#timeouts.negative;
  }

  /** struct fuse_attr_out */
  attributes(offset: number, call: FileCall): void {
    const words = this.#words;
    const at = HEAD + (offset >>> 2);
    words[at] = this.#timeouts.attributes;
    words[at + 1] = words[at + 2] = words[at + 3] = 0;
    this.#attributes(at + 4, call);
  }

  /** struct fuse_attr, whose first words are in the order of the call's. */
  #attributes(at: number, call: FileCall): void {
    const words = this.#words;
    call.copyAttributes(words, at, ATTRIBUTE.user);
    words[at + 17] = this.#owners.guestUser(call.attribute(ATTRIBUTE.user));
    words[at + 18] = this.#owners.guestGroup(call.attribute(ATTRIBUTE.group));
    const major = call.attribute(ATTRIBUTE.specialMajor);
    const minor = call.attribute(ATTRIBUTE.specialMinor);
    // new_encode_dev() of Linux
    words[at + 19] = (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
    words[at + 20] = call.attribute(ATTRIBUTE.blockSize);
    words[at + 21] = 0;
  }
}
