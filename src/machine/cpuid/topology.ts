/** One package of as many cores as there are vCPUs, one thread a core; APIC id and vCPU index are the same. */

import { hasFeature, removeFeature } from './features.ts';
import { bitsFor, vendorOf, withBits, type CpuidTable } from './table.ts';

export type Place = {
  /** number of vCPUs */
  readonly vcpus: number;
  /** this one, from 0 on */
  readonly index: number;
};

const HTT = 28;
const CMP_LEGACY = 1;

export function setTopology(table: CpuidTable, place: Place): void {
  const { vcpus, index } = place;
  const first = table.find(1)!;
  first.ebx = withBits(withBits(first.ebx, 31, 24, index), 23, 16, vcpus);
  first.edx = withBits(first.edx, HTT, HTT, vcpus > 1 ? 1 : 0);
  for (const leaf of [0xb, 0x1f]) {
    if (table.maxBasic >= leaf) table.setSubleaves(leaf, levels(place));
    else table.remove(leaf);
  }
  if (vendorOf(table) === 'amd') setAmdTopology(table, place);
}

/** Extended topology (Intel SDM, CPUID leaves 0BH and 1FH): a level of threads, one of cores, and the end. */
function levels({ vcpus, index: apicId }: Place) {
  const threadLevel = 1;
  const coreLevel = 2;
  return [
    { eax: 0, ebx: 1, ecx: (threadLevel << 8) | 0, edx: apicId },
    { eax: bitsFor(vcpus), ebx: vcpus, ecx: (coreLevel << 8) | 1, edx: apicId },
    { eax: 0, ebx: 0, ecx: 2, edx: apicId },
  ];
}

/** AMD APM, volume 3, appendix E, functions 8000_0008h and 8000_001Eh */
function setAmdTopology(table: CpuidTable, { vcpus, index }: Place): void {
  const features = table.find(0x8000_0001);
  // Without CmpLegacy, HTT would tell of threads instead of cores.
  if (features !== undefined)
    features.ecx = withBits(features.ecx, CMP_LEGACY, CMP_LEGACY, vcpus > 1 ? 1 : 0);
  const sizes = table.find(0x8000_0008);
  if (sizes !== undefined) {
    sizes.ecx = withBits(withBits(sizes.ecx, 7, 0, vcpus - 1), 15, 12, bitsFor(vcpus));
  }
  // The newer form of leaf 0xb; what of it KVM passes on is the host's.
  table.remove(0x8000_0026);
  if (table.maxExtended < 0x8000_001e) removeFeature(table, 'topoext');
  if (hasFeature(table, 'topoext')) {
    // one thread a core, one node a package
    table.set(0x8000_001e, { eax: index, ebx: index });
  } else {
    table.remove(0x8000_001e);
  }
}
