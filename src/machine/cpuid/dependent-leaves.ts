/** Leaves that describe a feature in detail: they have to agree with its bit. */

import { hasFeature, removeFeature, removeOrphans } from './features.ts';
import type { CpuidTable } from './table.ts';

const DETAILS: readonly (readonly [leaf: number, feature: string])[] = [
  [0xa, 'arch_perfmon'],
  [0x23, 'arch_perfmon'],
  [0x12, 'sgx'],
  [0x14, 'intel_pt'],
  [0x1c, 'arch_lbr'],
  [0x1d, 'amx_tile'],
  [0x1e, 'amx_tile'],
  [0x8000_000a, 'svm'],
  [0x8000_001f, 'sev'],
  [0x8000_0022, 'perfmon_v2'],
];

/** State components of XSAVE in XCR0 (Intel SDM, volume 1, 13.1) and what needs them. */
const STATES: readonly { readonly components: readonly number[]; readonly feature: string }[] = [
  { components: [2], feature: 'avx' },
  { components: [3, 4], feature: 'mpx' },
  { components: [5, 6, 7], feature: 'avx512f' },
  { components: [9], feature: 'pku' },
  { components: [17, 18], feature: 'amx_tile' },
];

/** legacy region and header of an XSAVE area, in bytes */
const XSAVE_HEADER_END = 576;

/** Makes the detail leaves follow the feature bits. */
export function settleDependentLeaves(table: CpuidTable): void {
  settleStates(table);
  if (!hasFeature(table, 'arch_perfmon')) {
    // the bit that says that leaf 0x23 is there
    const architecturalPerfmonExt = 1 << 8;
    const extended = table.find(7, 1);
    if (extended !== undefined) extended.eax = (extended.eax & ~architecturalPerfmonExt) >>> 0;
  }
  for (const [leaf, feature] of DETAILS) {
    if (!hasFeature(table, feature)) table.clear(leaf);
  }
}

/**
 * A feature goes where its state is not there (AMX, as long as the process has not asked for it), a state goes
 * where its feature is not there.
 */
function settleStates(table: CpuidTable): void {
  const root = table.find(0xd);
  const has = (component: number): boolean => root !== undefined && (root.eax & (1 << component)) !== 0;
  for (const { components, feature } of STATES) {
    if (!components.every(has)) removeFeature(table, feature);
  }
  removeOrphans(table);
  if (root === undefined) return;
  if (!hasFeature(table, 'xsave')) {
    table.clear(0xd);
    return;
  }
  for (const { components, feature } of STATES) {
    if (hasFeature(table, feature)) continue;
    for (const component of components) {
      root.eax = (root.eax & ~(1 << component)) >>> 0;
      table.remove(0xd, component);
    }
  }
  // ECX: bytes for all states at their fixed offsets. KVM itself keeps EBX, which follows XCR0.
  root.ecx = table
    .subleaves(0xd)
    .filter(({ index }) => index >= 2 && has(index))
    .reduce((end, { eax: size, ebx: offset }) => Math.max(end, offset + size), XSAVE_HEADER_END);
}
