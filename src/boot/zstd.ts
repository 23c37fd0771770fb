import { UnpackError } from './unpack-error.ts';

/**
 * A decoder that goes on gives output each time, up to one empty piece at the end of its input. More of them in a row
 * are the only sign by which the library tells of damaged data.
 */
const MAX_EMPTY_PIECES = 4;

/**
 * Unpacks Zstandard frames.
 * @param limit most bytes to unpack to
 * @throws UnpackError where the data is damaged, cut, or unpacks to more than `limit`
 */
export async function unpackZstd(packed: Uint8Array, limit: number): Promise<Uint8Array> {
  // Loaded here: a start with an unpacked kernel has no use for it.
  const { ZSTDDecoder } = await import('zstddec/stream');
  const decoder = new ZSTDDecoder();
  await decoder.init();
  const pieces: Uint8Array[] = [];
  let size = 0;
  let empty = 0;
  try {
    for (const piece of decoder.decodeStreaming([packed])) {
      empty = piece.length === 0 ? empty + 1 : 0;
      if (empty > MAX_EMPTY_PIECES) throw new UnpackError('the data is corrupt');
      size += piece.length;
      if (size > limit) throw new UnpackError('it unpacks to more than it may');
      pieces.push(piece);
    }
  } catch (error) {
    if (error instanceof UnpackError || !(error instanceof Error)) throw error;
    // the library's own word for cut data, and WebAssembly's for memory it cannot have
    throw new UnpackError(error.message);
  }
  return Buffer.concat(pieces, size);
}
