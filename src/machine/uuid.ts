export const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text);

/**
 * A UUID as tables and devices of a PC have it, its first three fields little-endian (ACPI 6.4, 19.6 "ToUUID"; SMBIOS
 * 3.6, 7.2.1). @throws RangeError where `text` is none
 */
export function uuidBytes(text: string): Uint8Array {
  if (!isUuid(text)) throw new RangeError(`"${text}" is no UUID`);
  const bytes = Uint8Array.from(text.replaceAll('-', '').match(/../g)!, (pair) => Number.parseInt(pair, 16));
  return Uint8Array.from([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15], (i) => bytes[i]!);
}
