/** The ACPI tables of the board, at the addresses where they refer to each other. */

import { ACPI_TABLES, ACPI_TABLES_LIMIT, PCI_ECAM } from '../../boot/layout.ts';
import type { GuestMemory } from '../../kvm/guest-memory.ts';
import { checkAcpiConfig, type AcpiConfig } from './config.ts';
import { dsdtBody } from './dsdt.ts';
import { fadt } from './fadt.ts';
import { madt } from './madt.ts';
import { concat, letters, littleEndian, rootPointer, table, type Term } from './table.ts';

export type { AcpiConfig, PciInterrupt, VirtioMmioDevice } from './config.ts';

export type AcpiTables = {
  /** guest-physical address of the RSDP */
  readonly rsdp: number;
  /** where `bytes` belong */
  readonly base: number;
  readonly bytes: Uint8Array;
};

/** Memory-mapped configuration space (PCI Firmware 3.3, 4.1.2). */
function mcfg(): Term {
  const lastBus = PCI_ECAM.size / 0x10_0000 - 1;
  const segment = 0;
  return table(
    'MCFG',
    1,
    new Uint8Array(8),
    littleEndian(PCI_ECAM.base, 8),
    littleEndian(segment, 2),
    [0, lastBus],
    new Uint8Array(4),
  );
}

/** The firmware control structure (5.2.10): no header, no checksum; the global lock and waking vectors are 0. */
function facs(): Term {
  const version = 2;
  return concat(letters('FACS'), littleEndian(64, 4), new Uint8Array(24), [version], new Uint8Array(31));
}

/** FACS lies on a 64-byte boundary (5.2.10); so does all else. */
const ALIGNMENT = 64;

/** @throws RangeError where the configuration is wrong or the tables do not fit */
export function buildAcpi(config: AcpiConfig): AcpiTables {
  checkAcpiConfig(config);
  const placed: { address: number; bytes: Term }[] = [];
  let next = ACPI_TABLES;
  const place = (bytes: Term): number => {
    const address = next;
    placed.push({ address, bytes });
    next = Math.ceil((address + bytes.length) / ALIGNMENT) * ALIGNMENT;
    return address;
  };
  // The RSDP goes first, but knows the others' addresses only once they are placed.
  const rsdp = place(rootPointer(0, 0));
  const facsAddress = place(facs());
  const dsdtAddress = place(table('DSDT', 2, dsdtBody(config)));
  const roots = [fadt(facsAddress, dsdtAddress), madt(config.apicIds), mcfg()].map(place);
  const xsdt = place(table('XSDT', 1, ...roots.map((address) => littleEndian(address, 8))));
  // Revision 2 has no need of an RSDT, but some small kernels read nothing else.
  const rsdt = place(table('RSDT', 1, ...roots.map((address) => littleEndian(address, 4))));
  placed[0] = { address: rsdp, bytes: rootPointer(rsdt, xsdt) };

  const size = next - ACPI_TABLES;
  if (size > ACPI_TABLES_LIMIT) {
    throw new RangeError(`ACPI tables of ${size} bytes do not fit ${ACPI_TABLES_LIMIT}`);
  }
  const bytes = new Uint8Array(size);
  for (const { address, bytes: content } of placed) bytes.set(content, address - ACPI_TABLES);
  return { rsdp, base: ACPI_TABLES, bytes };
}

/** Puts the tables where they belong. */
export function writeAcpi(memory: GuestMemory, tables: AcpiTables): void {
  memory.write(tables.base, tables.bytes);
}
