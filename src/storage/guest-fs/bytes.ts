/** Numbers and texts as they lie on disks. */

export const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Inexact above 2^53: whoever uses it compares with a limit far below, see {@link isWithin}. */
export const u64le = (view: DataView, at: number): number =>
  view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);

/** As {@link u64le}. */
export const u64be = (view: DataView, at: number): number =>
  view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);

/** Whether `length` bytes from `offset` on lie in `size` bytes. False for numbers that are no exact integers. */
export function isWithin(offset: number, length: number, size: number): boolean {
  return (
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(length) &&
    offset >= 0 &&
    length >= 0 &&
    offset <= size &&
    length <= size - offset
  );
}

const utf8 = new TextDecoder('utf-8');
const utf16le = new TextDecoder('utf-16le');
export const text = (bytes: Uint8Array): string => utf8.decode(bytes);
export const utf16 = (bytes: Uint8Array): string => utf16le.decode(bytes);

/** Up to the first NUL. */
export function cText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return text(end < 0 ? bytes : bytes.subarray(0, end));
}

/** One byte each, as in the short names of FAT. */
export const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

export const isZeros = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);

/** A UUID whose bytes are in the order of its text: ext4, XFS. */
export function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** A GUID of a GPT: its first three fields are little-endian (UEFI 2.10, appendix A). */
export function guidText(bytes: Uint8Array): string {
  const mixed = Uint8Array.from(bytes);
  mixed.subarray(0, 4).reverse();
  mixed.subarray(4, 6).reverse();
  mixed.subarray(6, 8).reverse();
  return uuidText(mixed);
}
