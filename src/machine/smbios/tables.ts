/** SMBIOS of the board: the 64-bit entry point and the structures behind it. */

import { SMBIOS, SMBIOS_LIMIT } from '../../boot/layout.ts';
import type { GuestMemory } from '../../kvm/guest-memory.ts';
import type { SmbiosConfig } from './config.ts';
import { encodeStructure, uint } from './structure.ts';
import { structures } from './structures.ts';

export type { SmbiosConfig } from './config.ts';

export type SmbiosTables = {
  /** where `bytes` belong; the entry point is at their start */
  readonly base: number;
  readonly bytes: Uint8Array;
};

const ENTRY_POINT_SIZE = 0x18;
/** structures follow the entry point, on a 16-byte boundary */
const STRUCTURES = 0x20;

/** DSP0134 3.3.0, 5.2.2 "64-bit entry point" */
function entryPoint(structureBytes: number): Uint8Array {
  const checksum = 5;
  const bytes = Uint8Array.from([
    ...Buffer.from('_SM3_'),
    0,
    ENTRY_POINT_SIZE,
    // version 3.3, of its document 0; revision of this structure
    3,
    3,
    0,
    1,
    0,
    ...uint(structureBytes, 4),
    ...uint(SMBIOS + STRUCTURES, 8),
  ]);
  bytes[checksum] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}

/** @throws RangeError where a value does not fit its field, or all together do not fit their place */
export function buildSmbios(config: SmbiosConfig): SmbiosTables {
  const table = structures(config).flatMap(encodeStructure);
  const size = STRUCTURES + table.length;
  if (size > SMBIOS_LIMIT) throw new RangeError(`SMBIOS: ${size} bytes do not fit ${SMBIOS_LIMIT}`);
  const bytes = new Uint8Array(size);
  bytes.set(entryPoint(table.length));
  bytes.set(table, STRUCTURES);
  return { base: SMBIOS, bytes };
}

/** Puts the tables where kernels scan for them. */
export function writeSmbios(memory: GuestMemory, tables: SmbiosTables): void {
  memory.write(tables.base, tables.bytes);
}
