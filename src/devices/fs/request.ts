import type { FileCall } from '../../kvm/file-calls.ts';
import { IoVector } from '../../kvm/io-vector.ts';
import type { Chain } from '../../virtio/chain.ts';
import type { Handle } from './handles.ts';
import type { Node } from './nodes.ts';
import { IN_HEADER, OP, OUT_HEADER, WRITE_IN } from './protocol.ts';

/** bytes of a WRITE before its data */
export const WRITE_HEAD = IN_HEADER + WRITE_IN;

/**
 * One request of the guest's kernel. It is copied once, but for the data of a WRITE, and what was copied is what is
 * checked and used. Belongs to a place for a call to the host, and is used again.
 */
export class FuseRequest {
  readonly call: FileCall;
  /** memory of a READ or WRITE */
  readonly vector = new IoVector();
  /** of the queue that it came from */
  queue = 0;
  /** set from pop to push */
  chain: Chain | undefined;
  /** bytes of it that were copied */
  length = 0;
  /** what the header says */
  opcode = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  nodeLow = 0;
  nodeHigh = 0;
  uid = 0;
  gid = 0;
  /** what it is carried out on, from its beginning to its end */
  node: Node | undefined;
  otherNode: Node | undefined;
  handle: Handle | undefined;
  otherHandle: Handle | undefined;
  /** a thread has its call */
  started = false;
  /** which mount of the file system it belongs to */
  session = 0;
  /** for its own use between begin and end */
  value = 0;
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;

  constructor(call: FileCall) {
    this.call = call;
    this.#bytes = call.data;
    this.#words = call.dataWords;
  }

  /** Reads a request of at least a header. Returns whether its header makes sense. */
  load(chain: Chain): boolean {
    const { readable } = chain;
    const total = readable.byteLength;
    const bytes = this.#bytes;
    this.chain = chain;
    const wanted = readable.readU32(4) === OP.write ? Math.min(total, WRITE_HEAD) : total;
    this.length = readable.read(0, wanted < bytes.length ? bytes.subarray(0, wanted) : bytes);
    const words = this.#words;
    this.opcode = words[1]!;
    this.uniqueLow = words[2]!;
    this.uniqueHigh = words[3]!;
    this.nodeLow = words[4]!;
    this.nodeHigh = words[5]!;
    this.uid = words[6]!;
    this.gid = words[7]!;
    if (words[0] !== total) return false;
    // What follows the head of anything but a WRITE has to have been copied, all of it.
    return this.length === total || (this.opcode === OP.write && this.length === WRITE_HEAD);
  }

  /** A word behind the header. The caller has looked at {@link holds}. */
  u32(offset: number): number {
    return this.#words[(IN_HEADER + offset) >>> 2]!;
  }

  /** 64 bits; inexact above 2^53. */
  u64(offset: number): number {
    const at = (IN_HEADER + offset) >>> 2;
    return this.#words[at + 1]! * 2 ** 32 + this.#words[at]!;
  }

  /** Whether there are so many bytes behind the header. */
  holds(bytes: number): boolean {
    return this.length - IN_HEADER >= bytes;
  }

  /** bytes of a WRITE's data */
  get payload(): number {
    return Math.max(0, this.chain!.readable.byteLength - WRITE_HEAD);
  }

  /** Whether the guest has room for an answer of so many bytes. */
  hasRoom(bytes: number): boolean {
    return this.chain!.writable.byteLength - OUT_HEADER >= bytes;
  }

  /** Length of the text that begins at `at` in the data and ends with a NUL, or -1 where that is not there. */
  textLength(at: number): number {
    const end = this.#bytes.indexOf(0, at);
    return end < 0 || end >= this.length || at >= this.length ? -1 : end - at;
  }

  /** Where in the data the text is that begins at `offset` behind the header. */
  nameAt(offset: number): number {
    return IN_HEADER + offset;
  }

  /** Sets the call's name to the text behind the header, at `offset`; where the next text begins, or -1. */
  name(offset: number): number {
    const at = IN_HEADER + offset;
    const length = this.textLength(at);
    if (length < 0) return -1;
    this.call.name(at, length);
    return at + length + 1;
  }

  /** Sets the call's second text, which begins at `at` in the data; where the next text begins, or -1. */
  other(at: number): number {
    const length = this.textLength(at);
    if (length < 0) return -1;
    this.call.other(at, length);
    return at + length + 1;
  }
}
