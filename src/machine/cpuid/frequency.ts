/** Frequencies of the TSC and the local APIC's timer, for guests that do not want to measure them. */

import { hasFeature } from './features.ts';
import { vendorOf, type CpuidTable } from './table.ts';

/** KVM's local APIC counts in nanoseconds (APIC_BUS_CYCLE_NS). */
const APIC_KHZ = 1_000_000;

const KVM_SIGNATURE = 0x4000_0000;
/** what VMware has in its leaf of this number; FreeBSD and others read it on KVM too */
const TIMING = 0x4000_0010;

export function setFrequencies(table: CpuidTable, tscKhz: number | undefined): void {
  // The nominal frequency (leaf 0x16) is a host's matter, 0 says that it is not told.
  table.clear(0x15);
  table.clear(0x16);
  if (tscKhz === undefined) return;
  const ratio = crystalRatio(table, tscKhz);
  if (ratio !== undefined) table.set(0x15, ratio);
  const signature = table.find(KVM_SIGNATURE);
  if (signature !== undefined) {
    signature.eax = Math.max(signature.eax, TIMING);
    table.set(TIMING, { eax: tscKhz, ebx: APIC_KHZ });
  }
}

/**
 * Leaf 0x15: the TSC as a ratio to the crystal clock. Linux takes the crystal for the clock of the local APIC's
 * timer, so it has to be that of KVM, and multiplies its kHz by the numerator in 32 bits: a TSC whose ratio has
 * too large a numerator is not told.
 */
function crystalRatio(table: CpuidTable, tscKhz: number) {
  if (vendorOf(table) !== 'intel' || table.maxBasic < 0x15 || !hasFeature(table, 'constant_tsc'))
    return undefined;
  const divisor = greatestCommonDivisor(tscKhz, APIC_KHZ);
  const numerator = tscKhz / divisor;
  if (numerator * APIC_KHZ >= 2 ** 32) return undefined;
  return { eax: APIC_KHZ / divisor, ebx: numerator, ecx: APIC_KHZ * 1000 };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
