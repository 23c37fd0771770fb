/** Reads SMBIOS as a kernel does: scans for the anchor, then walks the structures. */

import type { SmbiosTables } from '../../../src/machine/smbios/tables.ts';

export type ParsedStructure = {
  readonly type: number;
  readonly handle: number;
  /** offsets are those of the specification, from the header on */
  readonly view: DataView;
  /** the string that the byte at `offset` numbers, undefined where that is 0 */
  string(offset: number): string | undefined;
};

export type ParsedSmbios = {
  readonly address: number;
  readonly entryPoint: DataView;
  readonly structures: ParsedStructure[];
};

/** @throws Error where the tables are not well-formed */
export function parseSmbios({ base, bytes }: SmbiosTables): ParsedSmbios {
  const address = scan(base, bytes);
  const entryPoint = viewOf(bytes, address - base, 0x18);
  const limit = entryPoint.getUint32(12, true);
  const first = Number(entryPoint.getBigUint64(16, true)) - base;
  const structures: ParsedStructure[] = [];
  let at = first;
  while (at < first + limit) {
    const length = bytes[at + 1]!;
    const view = viewOf(bytes, at, length);
    const [strings, next] = stringSet(bytes, at + length);
    structures.push({
      type: view.getUint8(0),
      handle: view.getUint16(2, true),
      view,
      string: (offset) => {
        const number = view.getUint8(offset);
        if (number > strings.length) throw new Error(`string ${number} of ${strings.length}`);
        return number === 0 ? undefined : strings[number - 1];
      },
    });
    at = next;
  }
  if (at !== first + limit) throw new Error('the last structure runs over the end of the table');
  return { address, entryPoint, structures };
}

function scan(base: number, bytes: Uint8Array): number {
  for (let at = Math.ceil(0xf0000 / 16) * 16; at < 0x10_0000; at += 16) {
    const offset = at - base;
    if (offset >= 0 && Buffer.from(bytes.subarray(offset, offset + 5)).toString('latin1') === '_SM3_')
      return at;
  }
  throw new Error('no anchor from 0xf0000 on');
}

function stringSet(bytes: Uint8Array, start: number): [strings: string[], end: number] {
  const strings: string[] = [];
  let at = start;
  if (bytes[at] === 0 && bytes[at + 1] === 0) return [strings, at + 2];
  while (bytes[at] !== 0) {
    const end = bytes.indexOf(0, at);
    if (end < 0) throw new Error('a string does not end');
    strings.push(Buffer.from(bytes.subarray(at, end)).toString('latin1'));
    at = end + 1;
  }
  return [strings, at + 1];
}

const viewOf = (bytes: Uint8Array, offset: number, length: number): DataView =>
  new DataView(bytes.slice(offset, offset + length).buffer);
