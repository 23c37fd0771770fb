/**
 * System calls on files that are named by descriptors, and by single names within a directory, never by a path: what
 * lies outside of a directory cannot be reached from it. A call is prepared in a shared area, so that it costs no
 * allocation, and carried out at once or by a thread.
 */
import { native, type NativeFileCalls } from './native.ts';

/** What a call does. The numbers are the addon's too (native/file_operation.h). */
export const FILE = {
  /** O_PATH descriptor and attributes of a name */
  lookUp: 0,
  attributes: 1,
  change: 2,
  readLink: 3,
  makeLink: 4,
  makeNode: 5,
  makeFolder: 6,
  remove: 7,
  rename: 8,
  link: 9,
  /** opens what an O_PATH descriptor is of: a regular file, or with O_DIRECTORY a directory */
  open: 10,
  create: 11,
  readFolder: 12,
  fileSystem: 13,
  setXattr: 14,
  getXattr: 15,
  listXattr: 16,
  removeXattr: 17,
  allocate: 18,
  seek: 19,
  copyRange: 20,
  sync: 21,
  syncAll: 22,
  close: 23,
  dropPrivileges: 24,
} as const;
export type FileOperation = (typeof FILE)[keyof typeof FILE];

/** Flags of {@link FILE.change}. */
export const CHANGE = {
  mode: 1,
  user: 2,
  group: 4,
  size: 8,
  accessTime: 16,
  modifyTime: 32,
  accessTimeNow: 64,
  modifyTimeNow: 128,
  dropPrivileges: 256,
} as const;

// A call in the area, as in native/file_operation.h: 64 words of 32 bits.
const CALL_SIZE = 256;
const OPERATION = 0;
const FD = 1;
const OTHER_FD = 2;
const FLAGS = 3;
const MODE = 4;
const USER = 5;
const GROUP = 6;
const NAME_AT = 7;
const NAME_LENGTH = 8;
const OTHER_AT = 9;
const OTHER_LENGTH = 10;
const ROOM = 11;
const COOKIE = 18;
const ACCESS_SECONDS = 20;
const MODIFY_SECONDS = 22;
const ACCESS_NANOSECONDS = 24;
const MODIFY_NANOSECONDS = 25;
const NEW_FD = 28;
const NEW_NODE = 29;
const ATTRIBUTES = 30;
// in units of 64 bits
const OFFSET = 6;
const LENGTH = 7;
const OTHER_OFFSET = 8;
const RESULT = 13;

const NO_OWNER = 0xffff_ffff;
const PAGE = 4096;

/** Words of the attributes of a call, from {@link FileCall.attribute} 0 on; what has 64 bits takes two. */
export const ATTRIBUTE = {
  inode: 0,
  size: 2,
  blocks: 4,
  accessSeconds: 6,
  modifySeconds: 8,
  changeSeconds: 10,
  accessNanoseconds: 12,
  modifyNanoseconds: 13,
  changeNanoseconds: 14,
  mode: 15,
  links: 16,
  user: 17,
  group: 18,
  blockSize: 19,
  deviceMajor: 20,
  deviceMinor: 21,
  specialMajor: 22,
  specialMinor: 23,
} as const;

/** bytes of data that a call has */
export const FILE_DATA = 144 * 1024;
/** where in its data a call has results that are bytes, and room for how many */
export const FILE_RESULT_AT = 8192;
export const FILE_RESULT_ROOM = FILE_DATA - FILE_RESULT_AT;

/** One call: used again and again. */
export class FileCall {
  readonly index: number;
  /** names and values go in here, and bytes come out; anything else may lie in here as well */
  readonly data: Uint8Array;
  /** the same bytes */
  readonly dataWords: Uint32Array;
  readonly #calls: NativeFileCalls;
  readonly #words: Uint32Array;
  readonly #numbers: Float64Array;

  constructor(calls: NativeFileCalls, area: ArrayBuffer, index: number, dataAt: number) {
    this.index = index;
    this.#calls = calls;
    this.#words = new Uint32Array(area, index * CALL_SIZE, CALL_SIZE / 4);
    this.#numbers = new Float64Array(area, index * CALL_SIZE, CALL_SIZE / 8);
    this.data = new Uint8Array(area, dataAt, FILE_DATA);
    this.dataWords = new Uint32Array(area, dataAt, FILE_DATA / 4);
  }

  /**
   * Prepares a call.
   * @param otherFd the second one of calls that have two, -1 for none
   */
  prepare(operation: FileOperation, fd: number, flags = 0, otherFd = -1): void {
    const words = this.#words;
    words[OPERATION] = operation;
    words[FD] = fd;
    words[OTHER_FD] = otherFd;
    words[FLAGS] = flags;
    words[USER] = words[GROUP] = NO_OWNER;
    words[NAME_AT] = words[NAME_LENGTH] = words[OTHER_AT] = words[OTHER_LENGTH] = 0;
  }

  /** A name within the directory, or of an attribute: bytes of {@link data}. */
  name(at: number, length: number): void {
    this.#words[NAME_AT] = at;
    this.#words[NAME_LENGTH] = length;
  }

  /** The second name, the target of a link, or a value. */
  other(at: number, length: number): void {
    this.#words[OTHER_AT] = at;
    this.#words[OTHER_LENGTH] = length;
  }

  set flags(flags: number) {
    this.#words[FLAGS] = flags;
  }

  set mode(mode: number) {
    this.#words[MODE] = mode;
  }

  /** Of what is made, or changed to. */
  owner(user: number, group: number): void {
    this.#words[USER] = user;
    this.#words[GROUP] = group;
  }

  /** Bytes that may come out. */
  set room(bytes: number) {
    this.#words[ROOM] = Math.min(bytes, FILE_RESULT_ROOM);
  }

  range(offset: number, length: number, otherOffset = 0): void {
    this.#numbers[OFFSET] = offset;
    this.#numbers[LENGTH] = length;
    this.#numbers[OTHER_OFFSET] = otherOffset;
  }

  /** A position in a directory, by halves. */
  position(low: number, high: number): void {
    this.#words[COOKIE] = low;
    this.#words[COOKIE + 1] = high;
  }

  accessTime(low: number, high: number, nanoseconds: number): void {
    this.#words[ACCESS_SECONDS] = low;
    this.#words[ACCESS_SECONDS + 1] = high;
    this.#words[ACCESS_NANOSECONDS] = nanoseconds;
  }

  modifyTime(low: number, high: number, nanoseconds: number): void {
    this.#words[MODIFY_SECONDS] = low;
    this.#words[MODIFY_SECONDS + 1] = high;
    this.#words[MODIFY_NANOSECONDS] = nanoseconds;
  }

  /** Carries it out. @returns 0 or more, or a negative errno */
  run(): number {
    return this.#calls.run(this.index);
  }

  get result(): number {
    return this.#numbers[RESULT]!;
  }

  /** A descriptor that was made to use, or -1: the caller's to close. */
  get newFd(): number {
    return this.#words[NEW_FD]! | 0;
  }

  /** An O_PATH descriptor that was made, or -1. */
  get newNode(): number {
    return this.#words[NEW_NODE]! | 0;
  }

  /** A word of {@link ATTRIBUTE}. */
  attribute(word: number): number {
    return this.#words[ATTRIBUTES + word]!;
  }

  /** Copies the first `count` words of the attributes. */
  copyAttributes(to: Uint32Array, at: number, count: number): void {
    const words = this.#words;
    for (let i = 0; i < count; i++) to[at + i] = words[ATTRIBUTES + i]!;
  }
}

/** A number of calls, and the threads for those that may take long. */
export class FileCalls {
  readonly calls: readonly FileCall[];
  /** how many files the process may have open */
  readonly fileLimit: number;
  /** is called when a call that was started is over */
  onDone: ((call: number) => void) | undefined;
  /** is called after each batch of these */
  onBatchEnd: (() => void) | undefined;
  readonly #native: NativeFileCalls;
  #closed = false;

  /** @throws KvmError where the host has no /proc */
  constructor(count: number) {
    const calls = new (native().FileCalls)(count, FILE_DATA);
    this.#native = calls;
    const area = calls.area();
    const over = new Uint32Array(area, count * CALL_SIZE, count);
    const data = Math.ceil((count * (CALL_SIZE + 4)) / PAGE) * PAGE;
    this.calls = Array.from({ length: count }, (_, i) => new FileCall(calls, area, i, data + i * FILE_DATA));
    this.fileLimit = calls.fileLimit();
    calls.onCompletions = (finished) => {
      for (let i = 0; i < finished; i++) this.onDone?.(over[i]!);
      this.onBatchEnd?.();
    };
  }

  /** Has a thread carry a prepared call out; its data stay untouched until {@link onDone}. */
  start(call: FileCall): void {
    this.#native.start(call.index);
  }

  /**
   * An O_PATH descriptor of a directory of the host, whose attributes `call` has then. Links in `path` are followed.
   * @throws KvmError
   */
  openFolder(call: FileCall, path: string): number {
    return this.#native.openFolder(call.index, path);
  }

  /** Blocks until started calls are over, of which nobody hears any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.close();
  }
}
