/** Compressed clusters: raw deflate with a window of 4 KiB, or one Zstandard frame ("compression_type"). */
import { deflateRawSync, inflateRawSync, constants } from 'node:zlib';
import type { Compression } from './format.ts';

/** @returns a whole cluster, or undefined where the data is corrupt */
export type Decompress = (packed: Uint8Array, clusterSize: number) => Uint8Array | undefined;

export async function decompressorFor(type: Compression): Promise<Decompress> {
  if (type === 'zlib') return inflateCluster;
  const { ZSTDDecoder } = await import('zstddec');
  const decoder = new ZSTDDecoder();
  await decoder.init();
  return (packed, clusterSize) => {
    const length = frameLength(packed, clusterSize);
    if (length === undefined) return undefined;
    const bytes = decoder.decode(packed.subarray(0, length), clusterSize);
    return bytes.length === clusterSize ? bytes : undefined;
  };
}

function inflateCluster(packed: Uint8Array, clusterSize: number): Uint8Array | undefined {
  try {
    // What follows the data up to the end of its last sector is another cluster's.
    const bytes = inflateRawSync(packed, {
      maxOutputLength: clusterSize,
      chunkSize: Math.max(clusterSize, constants.Z_MIN_CHUNK),
      finishFlush: constants.Z_SYNC_FLUSH,
    });
    return bytes.length === clusterSize ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** @returns undefined where that does not make it smaller */
export function deflateCluster(cluster: Uint8Array): Uint8Array | undefined {
  const packed = deflateRawSync(cluster, { windowBits: 12, memLevel: 9 });
  return packed.length < cluster.length ? packed : undefined;
}

const FRAME_MAGIC = 0xfd2fb528;
/** Largest window that a cluster can make use of, rounded up; the decoder would set memory aside for what is asked. */
const MAX_WINDOW = 2 ** 23;

/**
 * Length of the frame at the start, which the entry does not tell to the byte (RFC 8878, 3.1.1). Undefined where it
 * is cut off, or not such a frame as a cluster makes.
 */
function frameLength(packed: Uint8Array, clusterSize: number): number | undefined {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  if (packed.length < 6 || view.getUint32(0, true) !== FRAME_MAGIC) return undefined;
  const descriptor = packed[4]!;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  // No dictionary is known to both sides, and bit 3 is reserved.
  if ((descriptor & 0x0b) !== 0) return undefined;
  let at = 5;
  if (!isSingleSegment) {
    const window = packed[at++]!;
    const base = 2 ** (10 + (window >>> 3));
    if (base + (base / 8) * (window & 7) > MAX_WINDOW) return undefined;
  }
  at += [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6]!;
  for (let last = false; !last;) {
    if (at + 3 > packed.length) return undefined;
    const block = packed[at]! | (packed[at + 1]! << 8) | (packed[at + 2]! << 16);
    last = (block & 1) !== 0;
    const type = (block >>> 1) & 3;
    const size = block >>> 3;
    if (type === 3 || size > Math.max(clusterSize, 131072)) return undefined;
    at += 3 + (type === 1 ? 1 : size);
  }
  if ((descriptor & 0x04) !== 0) at += 4;
  return at <= packed.length ? at : undefined;
}
