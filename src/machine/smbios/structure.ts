/** Structures of SMBIOS (DMTF DSP0134 3.3.0): a formatted part, then the strings it refers to by number. */

/** One structure without its header: what a builder function adds fields to. */
export type Structure = {
  readonly type: number;
  /** SMBIOS handle, 0 to 0xfeff */
  readonly handle: number;
  /** fields behind the header, in order; a string becomes its number in the structure's string set */
  readonly fields: readonly (ArrayLike<number> | string)[];
};

/** Little-endian bytes of an unsigned number. @throws RangeError where it does not fit */
export function uint(value: number, size: 1 | 2 | 4 | 8): number[] {
  if (!(Number.isSafeInteger(value) && value >= 0 && value < 2 ** (8 * size))) {
    throw new RangeError(`SMBIOS: ${value} does not fit ${size} bytes`);
  }
  return Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) % 256);
}

const HEADER_SIZE = 4;

/**
 * The bytes of a structure (6.1.2 and 6.1.3). An empty string is not stored, its number is 0.
 * @throws RangeError where a string is not printable ASCII, or there are too many
 */
export function encodeStructure({ type, handle, fields }: Structure): number[] {
  const strings: string[] = [];
  const formatted = fields.flatMap((value) =>
    typeof value === 'string' ? stringNumber(strings, value) : Array.from(value),
  );
  const header = [type, ...uint(HEADER_SIZE + formatted.length, 1), ...uint(handle, 2)];
  // A structure without strings ends with two NULs all the same.
  const set = strings.length === 0 ? [0] : strings.flatMap((text) => [...Buffer.from(text, 'latin1'), 0]);
  return [...header, ...formatted, ...set, 0];
}

function stringNumber(strings: string[], text: string): number {
  if (text === '') return 0;
  if (!/^[\x20-\x7e]*$/.test(text)) {
    throw new RangeError(`SMBIOS strings are printable ASCII: ${JSON.stringify(text)}`);
  }
  const known = strings.indexOf(text);
  return known >= 0 ? known + 1 : strings.push(text);
}
