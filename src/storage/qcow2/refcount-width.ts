/** Counts in a refcount block, whatever their width ("Refcount block entry"). Above 2^53 they come out rounded. */
export function getRefcount(view: DataView, index: number, bits: number): number {
  switch (bits) {
    case 8:
      return view.getUint8(index);
    case 16:
      return view.getUint16(2 * index);
    case 32:
      return view.getUint32(4 * index);
    case 64:
      return view.getUint32(8 * index) * 2 ** 32 + view.getUint32(8 * index + 4);
    default: {
      const bit = index * bits;
      return (view.getUint8(bit >>> 3) >>> (bit & 7)) & (2 ** bits - 1);
    }
  }
}

/** @param value at most 2^bits - 1, and 2^53 - 1 */
export function setRefcount(view: DataView, index: number, bits: number, value: number): void {
  switch (bits) {
    case 8:
      view.setUint8(index, value);
      return;
    case 16:
      view.setUint16(2 * index, value);
      return;
    case 32:
      view.setUint32(4 * index, value);
      return;
    case 64:
      view.setUint32(8 * index, Math.floor(value / 2 ** 32));
      view.setUint32(8 * index + 4, value % 2 ** 32);
      return;
    default: {
      const bit = index * bits;
      const mask = (2 ** bits - 1) << (bit & 7);
      const byte = view.getUint8(bit >>> 3) & ~mask;
      view.setUint8(bit >>> 3, byte | (value << (bit & 7)));
    }
  }
}
