import { Fields } from './binary.ts';
import { UnpackError } from './unpack-error.ts';

/** First dword of a legacy frame (lz4, doc/lz4_Frame_format.md, "Legacy frame"), the one in packed kernels. */
const LEGACY_MAGIC = 0x184c2102;
const FRAME_MAGIC = 0x184d2204;
/** every block of a legacy frame but the last unpacks to this */
const LEGACY_BLOCK_SIZE = 8 * 2 ** 20;
/** far more than any kernel has, and few enough to keep a list of */
const MAX_FRAMES = 1024;
const MAX_BLOCKS = 65536;

/** Bits of the frame descriptor's FLG byte. */
const FLG_DICTIONARY = 0x01;
const FLG_CONTENT_CHECKSUM = 0x04;
const FLG_CONTENT_SIZE = 0x08;
const FLG_BLOCK_CHECKSUM = 0x10;
const FLG_INDEPENDENT = 0x20;
/** in a block's size: its data is not compressed */
const BLOCK_STORED = 0x8000_0000;

type Block = { readonly at: number; readonly size: number; readonly stored: boolean };

/** The parts of one frame, found before anything is unpacked, so that the output's size has a bound. */
type Frame = {
  readonly blocks: readonly Block[];
  readonly blockSize: number;
  /** matches reach back into earlier blocks of the frame */
  readonly linked: boolean;
  readonly contentSize?: number;
  readonly checksum?: number;
};

/**
 * Unpacks LZ4 frames, one behind the other, of the legacy and the present format.
 * @param limit most bytes to unpack to
 * @throws UnpackError where the data is damaged, cut, or would unpack to more than `limit`
 */
export function unpackLz4(packed: Uint8Array, limit: number): Uint8Array {
  const frames = readFrames(packed);
  const bound = frames.reduce((sum, { blocks, blockSize }) => sum + blocks.length * blockSize, 0);
  const out = new Uint8Array(Math.min(bound, limit));
  let at = 0;
  for (const frame of frames) {
    const start = at;
    for (const block of frame.blocks) {
      const end = Math.min(at + frame.blockSize, out.length);
      at = block.stored
        ? copyStored(packed, block, out, at, end)
        : unpackBlock(packed, block, out, at, end, frame.linked ? start : at);
    }
    if (frame.contentSize !== undefined && frame.contentSize !== at - start) {
      throw new UnpackError(`a frame has ${at - start} bytes, not the ${frame.contentSize} it tells of`);
    }
    if (frame.checksum !== undefined && xxh32(out.subarray(start, at)) !== frame.checksum) {
      throw new UnpackError('a checksum is wrong');
    }
  }
  return out.subarray(0, at);
}

function readFrames(packed: Uint8Array): Frame[] {
  const fields = new Fields(packed);
  const frames: Frame[] = [];
  for (let at = 0; at < packed.length;) {
    const magic = at + 4 <= packed.length ? fields.u32(at) : 0;
    if (magic !== LEGACY_MAGIC && magic !== FRAME_MAGIC)
      throw new UnpackError('something else follows the frames');
    const { frame, end } =
      magic === LEGACY_MAGIC ? readLegacyFrame(packed, at + 4) : readFrame(packed, at + 4);
    if (frames.length >= MAX_FRAMES) throw new UnpackError('it has too many frames');
    frames.push(frame);
    at = end;
  }
  return frames;
}

/** A legacy frame ends with the file, or where the next frame's magic stands in the place of a block's size. */
function readLegacyFrame(packed: Uint8Array, start: number): { frame: Frame; end: number } {
  const fields = new Fields(packed);
  const blocks: Block[] = [];
  let at = start;
  while (at + 4 <= packed.length) {
    const size = fields.u32(at);
    if (size === LEGACY_MAGIC || size === FRAME_MAGIC) break;
    at = addBlock(blocks, packed, at + 4, size, false);
  }
  if (at + 4 > packed.length && at !== packed.length) throw cut();
  return { frame: { blocks, blockSize: LEGACY_BLOCK_SIZE, linked: false }, end: at };
}

function readFrame(packed: Uint8Array, start: number): { frame: Frame; end: number } {
  const fields = new Fields(packed);
  // FLG, BD, content size, header checksum at most; the first block's size, or the end mark, follows in any case
  if (start + 7 > packed.length) throw cut();
  const flags = fields.u8(start);
  const sizeCode = (fields.u8(start + 1) >> 4) & 7;
  const headerSize = (flags & FLG_CONTENT_SIZE) !== 0 ? 10 : 2;
  if (flags >> 6 !== 1 || (flags & FLG_DICTIONARY) !== 0 || sizeCode < 4) {
    throw new UnpackError('a frame of an unknown kind');
  }
  if (start + headerSize + 1 > packed.length) throw cut();
  const header = packed.subarray(start, start + headerSize);
  if (((xxh32(header) >>> 8) & 0xff) !== fields.u8(start + headerSize)) {
    throw new UnpackError("a frame header's checksum is wrong");
  }
  const blocks: Block[] = [];
  let at = start + headerSize + 1;
  for (;;) {
    if (at + 4 > packed.length) throw cut();
    const size = fields.u32(at);
    at += 4;
    if (size === 0) break;
    at = addBlock(blocks, packed, at, size % BLOCK_STORED, size >= BLOCK_STORED);
    if ((flags & FLG_BLOCK_CHECKSUM) !== 0) at += 4;
  }
  const checked = (flags & FLG_CONTENT_CHECKSUM) !== 0;
  if (checked && at + 4 > packed.length) throw cut();
  const frame = {
    blocks,
    blockSize: 2 ** (8 + 2 * sizeCode),
    linked: (flags & FLG_INDEPENDENT) === 0,
    ...(headerSize > 2 && { contentSize: fields.u64(start + 2) }),
    ...(checked && { checksum: fields.u32(at) }),
  };
  return { frame, end: checked ? at + 4 : at };
}

/** @returns where the block's data ends */
function addBlock(blocks: Block[], packed: Uint8Array, at: number, size: number, stored: boolean): number {
  if (at + size > packed.length) throw cut();
  if (blocks.length >= MAX_BLOCKS) throw new UnpackError('it has too many blocks');
  blocks.push({ at, size, stored });
  return at + size;
}

function copyStored(packed: Uint8Array, block: Block, out: Uint8Array, at: number, end: number): number {
  if (at + block.size > end) throw tooMuch();
  out.set(packed.subarray(block.at, block.at + block.size), at);
  return at + block.size;
}

/** Below this a loop is faster than a call that copies. */
const SHORT_COPY = 32;

/**
 * Unpacks one block (lz4, doc/lz4_Block_format.md) to `out` from `start` to `end` at most.
 * @param history where in `out` a match may begin at the earliest
 * @returns the end of what was unpacked
 */
function unpackBlock(
  packed: Uint8Array,
  block: Block,
  out: Uint8Array,
  start: number,
  end: number,
  history: number,
): number {
  let from = block.at;
  const fromEnd = from + block.size;
  let at = start;
  while (from < fromEnd) {
    const token = packed[from++]!;
    let literals = token >> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (from >= fromEnd) throw cut();
        more = packed[from++]!;
        literals += more;
      }
    }
    if (from + literals > fromEnd) throw cut();
    if (at + literals > end) throw tooMuch();
    if (literals < SHORT_COPY) {
      for (let i = 0; i < literals; i++) out[at + i] = packed[from + i]!;
    } else {
      out.set(packed.subarray(from, from + literals), at);
    }
    at += literals;
    from += literals;
    // The last sequence of a block has literals only.
    if (from === fromEnd) return at;

    if (from + 2 > fromEnd) throw cut();
    const offset = packed[from]! | (packed[from + 1]! << 8);
    from += 2;
    let length = (token & 15) + 4;
    if (length === 19) {
      let more = 255;
      while (more === 255) {
        if (from >= fromEnd) throw cut();
        more = packed[from++]!;
        length += more;
      }
    }
    if (offset === 0 || at - offset < history) throw new UnpackError('a match lies before the data');
    if (at + length > end) throw tooMuch();
    if (length < SHORT_COPY || offset < length) {
      // A match may overlap its own copy: then it repeats, byte by byte.
      for (const stop = at + length; at < stop; at++) out[at] = out[at - offset]!;
    } else {
      out.copyWithin(at, at - offset, at - offset + length);
      at += length;
    }
  }
  throw cut();
}

const PRIME1 = 0x9e3779b1;
const PRIME2 = 0x85ebca77;
const PRIME3 = 0xc2b2ae3d;
const PRIME4 = 0x27d4eb2f;
const PRIME5 = 0x165667b1;

/** XXH32 with seed 0 (xxHash, doc/xxhash_spec.md), the checksum of LZ4 frames. */
function xxh32(bytes: Uint8Array): number {
  const fields = new Fields(bytes);
  let at = 0;
  let hash = PRIME5;
  if (bytes.length >= 16) {
    let a = (PRIME1 + PRIME2) | 0;
    let b = PRIME2 | 0;
    let c = 0;
    let d = -PRIME1 | 0;
    for (; at + 16 <= bytes.length; at += 16) {
      a = Math.imul(rotate(a + Math.imul(fields.u32(at), PRIME2), 13), PRIME1);
      b = Math.imul(rotate(b + Math.imul(fields.u32(at + 4), PRIME2), 13), PRIME1);
      c = Math.imul(rotate(c + Math.imul(fields.u32(at + 8), PRIME2), 13), PRIME1);
      d = Math.imul(rotate(d + Math.imul(fields.u32(at + 12), PRIME2), 13), PRIME1);
    }
    hash = (rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18)) | 0;
  }
  hash = (hash + bytes.length) | 0;
  for (; at + 4 <= bytes.length; at += 4) {
    hash = Math.imul(rotate(hash + Math.imul(fields.u32(at), PRIME3), 17), PRIME4);
  }
  for (; at < bytes.length; at++) {
    hash = Math.imul(rotate(hash + Math.imul(fields.u8(at), PRIME5), 11), PRIME1);
  }
  hash = Math.imul(hash ^ (hash >>> 15), PRIME2);
  hash = Math.imul(hash ^ (hash >>> 13), PRIME3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

function cut(): UnpackError {
  return new UnpackError('the data ends too early');
}

function tooMuch(): UnpackError {
  return new UnpackError('it unpacks to more than it may');
}
