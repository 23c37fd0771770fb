/** Resource descriptors, what a device's _CRS returns (ACPI 6.4, 6.4 "Resource Data Types for ACPI"). */

import { buffer, concat, littleEndian, type Term } from './aml.ts';

/** How an interrupt line is driven. */
export type InterruptMode = {
  readonly trigger: 'edge' | 'level';
  /** active level; default `high` */
  readonly polarity?: 'high' | 'low';
  /** others may be on the same line; default false */
  readonly shared?: boolean;
};

/** The descriptors and an end tag in a buffer; checksum 0 says that there is none (6.4.2.9). */
export const resourceTemplate = (...descriptors: readonly Term[]): Term =>
  buffer(concat(...descriptors, [0x79, 0x00]));

/** Ports decoded in 16 bits, fixed (6.4.2.5). @param length 1 to 255 */
export const ioPorts = (base: number, length: number): Term =>
  concat([0x47, 0x01], littleEndian(base, 2), littleEndian(base, 2), [0x01], littleEndian(length, 1));

/** An interrupt of the PICs: edge-triggered, active-high, exclusive (6.4.2.1, two-byte form). */
export function irq(line: number): Term {
  if (!(Number.isInteger(line) && line >= 0 && line <= 15))
    throw new RangeError(`${line} is no ISA interrupt`);
  return concat([0x22], littleEndian(1 << line, 2));
}

/** Extended interrupts by GSI (6.4.3.6). */
export function interrupts(mode: InterruptMode, ...gsis: readonly number[]): Term {
  const flags =
    0x01 |
    (mode.trigger === 'edge' ? 0x02 : 0) |
    (mode.polarity === 'low' ? 0x04 : 0) |
    (mode.shared === true ? 0x08 : 0);
  return concat(
    [0x89],
    littleEndian(2 + 4 * gsis.length, 2),
    [flags],
    littleEndian(gsis.length, 1),
    ...gsis.map((gsi) => littleEndian(gsi, 4)),
  );
}

/** Writable memory below 4 GiB at a fixed place (6.4.3.4). */
export const memory32 = (base: number, length: number): Term =>
  concat([0x86, 0x09, 0x00, 0x01], littleEndian(base, 4), littleEndian(length, 4));

/** A range that a bridge passes on. */
type Window = { readonly base: number; readonly size: number };

const MEMORY = 0;
const IO = 1;
const BUS = 2;
/** _MIF and _MAF: both ends are fixed; positive decode, produced for the devices behind the bridge (6.4.3.5) */
const FIXED_WINDOW = 0x0c;
/** not cacheable, writable (6.4.3.5.5) */
const READ_WRITE = 0x01;
/** all of the range, ISA ports included (6.4.3.5.5) */
const ENTIRE_RANGE = 0x03;

/** Address space descriptors differ in the width of their five numbers only (6.4.3.5.1 to 6.4.3.5.3). */
function addressSpace(width: 2 | 4 | 8, type: number, typeFlags: number, { base, size }: Window): Term {
  if (!(size > 0)) throw new RangeError(`an address window at 0x${base.toString(16)} is empty`);
  const tag = { 2: 0x88, 4: 0x87, 8: 0x8a }[width];
  const granularity = 0;
  const translation = 0;
  const numbers = [granularity, base, base + size - 1, translation, size];
  return concat(
    [tag],
    littleEndian(3 + numbers.length * width, 2),
    [type, FIXED_WINDOW, typeFlags],
    ...numbers.map((value) => littleEndian(value, width)),
  );
}

/** Bus numbers below a PCI host bridge. */
export const wordBusNumbers = (window: Window): Term => addressSpace(2, BUS, 0, window);
/** A window of ports; one of all 65536 does not fit a word descriptor's length. */
export const wordIoWindow = (window: Window): Term => addressSpace(2, IO, ENTIRE_RANGE, window);
/** A memory window below 4 GiB. */
export const dwordMemoryWindow = (window: Window): Term => addressSpace(4, MEMORY, READ_WRITE, window);
/** A memory window anywhere. */
export const qwordMemoryWindow = (window: Window): Term => addressSpace(8, MEMORY, READ_WRITE, window);
