/** What all ACPI tables have in common (ACPI 6.4, 5.2.6 "System Description Table Header"). */

import { concat, littleEndian, type Term } from './aml.ts';

export { concat, littleEndian, type Term };

const OEM_ID = 'TSVM  ';
const CREATOR_ID = 'TSVM';
const REVISION = 1;
const HEADER_SIZE = 36;
const CHECKSUM = 9;

export const letters = (text: string): Term => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

/** The byte that makes all of them add up to 0. */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

/** A table with its header and checksum. @param signature four letters */
export function table(signature: string, revision: number, ...body: readonly ArrayLike<number>[]): Term {
  const content = concat(...body);
  const bytes = concat(
    letters(signature),
    littleEndian(HEADER_SIZE + content.length, 4),
    [revision, 0],
    letters(OEM_ID),
    letters(`TSVM${signature}`),
    littleEndian(REVISION, 4),
    letters(CREATOR_ID),
    littleEndian(REVISION, 4),
    content,
  );
  bytes[CHECKSUM] = checksum(bytes);
  return bytes;
}

/** The root pointer of revision 2 (5.2.5.3): one checksum over the first 20 bytes, one over all. */
export function rootPointer(rsdt: number, xsdt: number): Term {
  const extendedChecksum = 32;
  const bytes = concat(
    letters('RSD PTR '),
    [0],
    letters(OEM_ID),
    [2],
    littleEndian(rsdt, 4),
    littleEndian(36, 4),
    littleEndian(xsdt, 8),
    [0, 0, 0, 0],
  );
  bytes[8] = checksum(bytes.subarray(0, 20));
  bytes[extendedChecksum] = checksum(bytes);
  return bytes;
}
