/** CRC-32C (Castagnoli), which ext4's journal and XFS use; zlib has the other polynomial alone. */
const POLYNOMIAL = 0x82f6_3b78;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  return crc >>> 0;
});

/** @param crc of what comes before; neither it nor the result is inverted: callers do as their format says */
export function crc32c(bytes: Uint8Array, crc: number): number {
  let state = crc | 0;
  for (const byte of bytes) state = TABLE[(state ^ byte) & 0xff]! ^ (state >>> 8);
  return state >>> 0;
}
