import { Fields } from './binary.ts';
import { UnpackError } from './unpack-error.ts';

/** First dword of a frame (RFC 8878, 3.1.1), and of a skippable frame less its low four bits (3.1.2). */
const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** most that one block unpacks to (RFC 8878, 3.1.1.2.4) */
const BLOCK_LIMIT = 128 * 1024;
/** Packed and unpacked data are both in the decoder's memory, which ends at 2 GiB. */
const PACKED_LIMIT = 256 * 2 ** 20;

/**
 * Unpacks Zstandard frames.
 * @param limit most bytes to unpack to, at most 1 GiB
 * @throws UnpackError where the data is damaged, cut, or unpacks to more than `limit`
 */
export async function unpackZstd(packed: Uint8Array, limit: number): Promise<Uint8Array> {
  if (packed.length > PACKED_LIMIT) throw new UnpackError('it is too big');
  const { exact, bound } = sizeOf(packed);
  if (exact && bound > limit) throw new UnpackError('it unpacks to more than it may');
  // Loaded here: a start with an unpacked kernel has no use for it.
  const { ZSTDDecoder } = await import('zstddec');
  const decoder = new ZSTDDecoder();
  await decoder.init();
  const bytes = decoder.decode(packed, Math.max(Math.min(bound, limit), 1));
  // The decoder gives nothing where it fails, and does not say why.
  if (bytes.length > 0 || bound === 0) return bytes;
  throw new UnpackError(
    bound > limit ? 'the data is corrupt, or unpacks to more than it may' : 'the data is corrupt',
  );
}

/**
 * What frames tell of their unpacked size before they are unpacked: `exact` where all of them have it in their
 * headers, else the most that their blocks can give.
 */
function sizeOf(packed: Uint8Array): { exact: boolean; bound: number } {
  const fields = new Fields(packed);
  const need = (at: number, length: number): void => {
    if (at + length > packed.length) throw new UnpackError('the data ends too early');
  };
  let exact = true;
  let bound = 0;
  for (let at = 0; at < packed.length;) {
    need(at, 5);
    const magic = fields.u32(at);
    if (magic - (magic % 16) === SKIPPABLE_MAGIC) {
      need(at, 8);
      at += 8 + fields.u32(at + 4);
      continue;
    }
    if (magic !== FRAME_MAGIC) throw new UnpackError('something else follows the frames');
    const header = readFrameHeader(fields, at + 4, need);
    if (header.contentSize !== undefined) bound += header.contentSize;
    else exact = false;
    at = header.end;
    for (let last = false; !last;) {
      need(at, 3);
      const block = fields.u16(at) | (fields.u8(at + 2) << 16);
      last = (block & 1) !== 0;
      const type = (block >> 1) & 3;
      const size = block >> 3;
      // raw, the same byte `size` times, compressed; the last is reserved
      if (type === 3) throw new UnpackError('the data is corrupt');
      if (header.contentSize === undefined) bound += type === 2 ? BLOCK_LIMIT : size;
      at += 3 + (type === 1 ? 1 : size);
    }
    if (header.checksum) at += 4;
    need(at, 0);
  }
  return { exact, bound };
}

/** RFC 8878, 3.1.1.1. @param at behind the magic */
function readFrameHeader(
  fields: Fields,
  at: number,
  need: (at: number, length: number) => void,
): { contentSize?: number; checksum: boolean; end: number } {
  const descriptor = fields.u8(at);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionarySize = [0, 1, 2, 4][descriptor & 3]!;
  const sizeSize = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  const sizeAt = at + 1 + (isSingleSegment ? 0 : 1) + dictionarySize;
  need(sizeAt, sizeSize);
  return {
    ...(sizeSize > 0 && { contentSize: readContentSize(fields, sizeAt, sizeSize) }),
    checksum: (descriptor & 0x04) !== 0,
    end: sizeAt + sizeSize,
  };
}

function readContentSize(fields: Fields, at: number, size: number): number {
  if (size === 1) return fields.u8(at);
  if (size === 2) return fields.u16(at) + 256;
  return size === 4 ? fields.u32(at) : fields.u64(at);
}
