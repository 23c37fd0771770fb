/** Reads ACPI tables as an operating system does: from the RSDP on, knowing nothing of how they were built. */

import type { AcpiTables } from '../../../src/machine/acpi/tables.ts';

export type ParsedTable = {
  readonly address: number;
  readonly signature: string;
  readonly bytes: Uint8Array;
  readonly view: DataView;
};

const letters = (bytes: Uint8Array): string => String.fromCharCode(...bytes);
export const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => (total + byte) & 0xff, 0);

export class Parsed {
  readonly rsdp: ParsedTable;
  readonly xsdt: ParsedTable;
  readonly rsdt: ParsedTable;
  readonly #tables: AcpiTables;

  constructor(tables: AcpiTables) {
    this.#tables = tables;
    this.rsdp = this.#slice(tables.rsdp, 36);
    this.rsdt = this.at(this.rsdp.view.getUint32(16, true));
    this.xsdt = this.at(Number(this.rsdp.view.getBigUint64(24, true)));
  }

  /** a table with the usual header, by address */
  at(address: number): ParsedTable {
    return this.#slice(address, this.#slice(address, 8).view.getUint32(4, true));
  }

  /** addresses that the XSDT lists */
  get listed(): number[] {
    const count = (this.xsdt.bytes.length - 36) / 8;
    return Array.from({ length: count }, (_, i) => Number(this.xsdt.view.getBigUint64(36 + 8 * i, true)));
  }

  /** addresses that the RSDT lists */
  get listedIn32Bits(): number[] {
    const count = (this.rsdt.bytes.length - 36) / 4;
    return Array.from({ length: count }, (_, i) => this.rsdt.view.getUint32(36 + 4 * i, true));
  }

  /** a table of the XSDT, or one that the FADT names */
  table(signature: string): ParsedTable {
    const found = this.listed
      .map((address) => this.at(address))
      .find((table) => table.signature === signature);
    if (found !== undefined) return found;
    const { view } = this.table('FACP');
    if (signature === 'FACS') return this.at(Number(view.getBigUint64(132, true)));
    if (signature === 'DSDT') return this.at(Number(view.getBigUint64(140, true)));
    throw new Error(`no ${signature}`);
  }

  #slice(address: number, length: number): ParsedTable {
    const { base, bytes } = this.#tables;
    if (address < base || address + length > base + bytes.length) {
      throw new Error(`0x${address.toString(16)} +${length} is outside the tables`);
    }
    const part = bytes.slice(address - base, address - base + length);
    return {
      address,
      signature: letters(part.subarray(0, 4)),
      bytes: part,
      view: new DataView(part.buffer),
    };
  }
}

/** The entries of a MADT: type and the bytes behind type and length. */
export function madtEntries({ bytes }: ParsedTable): { type: number; data: number[] }[] {
  const entries = [];
  let at = 44;
  while (at < bytes.length) {
    const length = bytes[at + 1]!;
    if (length < 2 || at + length > bytes.length) throw new Error(`MADT entry of ${length} bytes at ${at}`);
    entries.push({ type: bytes[at]!, data: [...bytes.subarray(at + 2, at + length)] });
    at += length;
  }
  return entries;
}
