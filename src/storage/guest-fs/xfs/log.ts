/** The log of XFS is not read but for one thing: whether there is something in it that is nowhere else. */
import { viewOf } from '../bytes.ts';
import type { XfsBlocks } from './blocks.ts';

const SECTOR = 512;
const MAGIC = 0xfeed_babe;
/** A record has no more than this, in sectors. */
const LONGEST = 1024;
const PER_HEADER = 32 * 1024;
const UNMOUNT = 0x20;

/**
 * Whether the last record says that the file system was unmounted. Each sector begins with the number of the round in
 * which it was written, or has it behind a record's magic number.
 */
export async function wasUnmounted(blocks: XfsBlocks): Promise<boolean> {
  const { logStart, logBlocks, blockSize } = blocks.superblock;
  if (logStart === 0 || logBlocks === 0) return true;
  const start = blocks.placeOf(logStart);
  const sectors = (logBlocks * blockSize) / SECTOR;
  const sector = async (at: number): Promise<DataView> =>
    viewOf(await blocks.readAt(start + at * SECTOR, SECTOR));
  const roundOf = (view: DataView): number => view.getUint32(view.getUint32(0) === MAGIC ? 4 : 0);
  const round = roundOf(await sector(0));
  let head = sectors;
  if (roundOf(await sector(sectors - 1)) !== round) {
    let low = 0;
    while (head - low > 1) {
      const middle = (low + head) >>> 1;
      if (roundOf(await sector(middle)) === round) low = middle;
      else head = middle;
    }
  }
  for (let at = head - 1; at >= Math.max(0, head - LONGEST); at--) {
    const record = await sector(at);
    if (record.getUint32(0) !== MAGIC) continue;
    const headers =
      (record.getUint32(8) & 2) !== 0 ? Math.max(1, Math.ceil(record.getUint32(320) / PER_HEADER)) : 1;
    if (record.getUint32(40) !== 1 || at + headers >= sectors) return false;
    return ((await sector(at + headers)).getUint8(9) & UNMOUNT) !== 0;
  }
  return false;
}
