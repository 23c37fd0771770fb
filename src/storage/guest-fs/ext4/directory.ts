/**
 * Directory blocks. Those of a hashed tree (htree) look to us like blocks with one empty entry: all names are found by
 * reading all blocks, and names are few where kernels are.
 */
import { text, viewOf } from '../bytes.ts';
import { corrupt } from '../error.ts';

export type Ext4Entry = { readonly name: string; readonly inode: number };

const HEADER = 8;

/**
 * @param hasTypes whether the name's length has one byte, and the other is the file's type
 * @param start where the first entry is
 */
export function parseEntries(bytes: Uint8Array, hasTypes: boolean, start = 0): Ext4Entry[] {
  const view = viewOf(bytes);
  const entries: Ext4Entry[] = [];
  for (let at = start; at + HEADER <= bytes.length;) {
    const stored = view.getUint16(at + 4, true);
    // What does not fit 16 bits: blocks of 64 KiB.
    const length = stored === 65535 || stored === 0 ? 65536 : (stored & ~3) | ((stored & 3) << 16);
    if (length < HEADER || at + length > bytes.length) throw corrupt(`a directory entry of ${length} bytes`);
    const inode = view.getUint32(at, true);
    const nameLength = hasTypes ? bytes[at + 6]! : view.getUint16(at + 6, true);
    if (inode !== 0 && nameLength > 0) {
      if (HEADER + nameLength > length)
        throw corrupt(`a name of ${nameLength} bytes in a directory entry of ${length}`);
      const name = text(bytes.subarray(at + HEADER, at + HEADER + nameLength));
      if (name !== '.' && name !== '..') entries.push({ name, inode });
    }
    at += length;
  }
  return entries;
}
