/** CPUID as a guest executes it on KVM, and what Linux makes of the topology. */

import type { CpuidEntry } from '../../../src/kvm/cpuid-entry.ts';

export type Registers = { eax: number; ebx: number; ecx: number; edx: number };
export type Cpuid = (leaf: number, index?: number) => Registers;

const ZERO: Registers = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/** A leaf that is not there reads zeros, as KVM has it for those up to the highest. */
export function cpuidOf(entries: readonly CpuidEntry[]): Cpuid {
  return (leaf, index = 0) => {
    const found = entries.find(
      (entry) => entry.function === leaf && ((entry.flags & 1) === 0 || entry.index === index),
    );
    if (found === undefined) return ZERO;
    const { eax, ebx, ecx, edx } = found;
    return { eax, ebx, ecx, edx };
  };
}

const field = (value: number, high: number, low: number): number =>
  Math.floor(value / 2 ** low) % 2 ** (high - low + 1);
const order = (count: number): number => {
  let bits = 0;
  while (2 ** bits < count) bits++;
  return bits;
};

export type Topology = {
  apicId: number;
  /** bits of the APIC id below the core and below the package */
  threadBits: number;
  packageBits: number;
  threadsPerCore: number;
  threadsPerPackage: number;
  package: number;
};

/** leaf 0x1f or 0xb, whichever comes first with something in it */
function extended(cpuid: Cpuid): Omit<Topology, 'package'> | undefined {
  for (const leaf of [0x1f, 0xb]) {
    if (cpuid(0).eax < leaf) continue;
    const levels = [];
    for (let index = 0; ; index++) {
      const level = cpuid(leaf, index);
      if (field(level.ecx, 15, 8) === 0 || field(level.ebx, 15, 0) === 0) break;
      levels.push(level);
    }
    const [threads, cores] = levels;
    if (threads === undefined || cores === undefined) continue;
    if (levels.some(({ edx }) => edx !== threads.edx)) throw new Error('APIC id differs between subleaves');
    if (field(threads.ecx, 15, 8) !== 1 || field(cores.ecx, 15, 8) !== 2)
      throw new Error('levels out of order');
    return {
      apicId: threads.edx,
      threadBits: field(threads.eax, 4, 0),
      packageBits: field(cores.eax, 4, 0),
      threadsPerCore: field(threads.ebx, 15, 0),
      threadsPerPackage: field(cores.ebx, 15, 0),
    };
  }
  return undefined;
}

const isAmd = (cpuid: Cpuid): boolean => cpuid(0).ebx === 0x6874_7541;
const hasTopoext = (cpuid: Cpuid): boolean => field(cpuid(0x8000_0001).ecx, 22, 22) === 1;

/** As Linux since 6.9 does it: the extended leaf, on AMD only with TopologyExtensions, else the older leaves. */
export function linuxTopology(cpuid: Cpuid): Topology {
  const scanned =
    isAmd(cpuid) && !hasTopoext(cpuid) ? amdLegacy(cpuid) : (extended(cpuid) ?? intelLegacy(cpuid));
  if (isAmd(cpuid) && hasTopoext(cpuid)) {
    const amd = cpuid(0x8000_001e);
    if (amd.eax !== scanned.apicId) throw new Error('leaf 0x8000001e has another APIC id');
    if (field(amd.ebx, 15, 8) + 1 !== scanned.threadsPerCore) throw new Error('threads a core differ');
    if (field(amd.ebx, 7, 0) !== scanned.apicId >> scanned.threadBits) throw new Error('core id differs');
    if (field(amd.ecx, 10, 8) !== 0) throw new Error('more than one node');
  }
  return { ...scanned, package: scanned.apicId >> scanned.packageBits };
}

const apicIdOfLeaf1 = (cpuid: Cpuid): number => field(cpuid(1).ebx, 31, 24);

function amdLegacy(cpuid: Cpuid): Omit<Topology, 'package'> {
  const { ecx } = cpuid(0x8000_0008);
  const threads = field(ecx, 7, 0) + 1;
  return {
    apicId: apicIdOfLeaf1(cpuid),
    threadBits: 0,
    packageBits: field(ecx, 15, 12) || order(threads),
    threadsPerCore: 1,
    threadsPerPackage: threads,
  };
}

function intelLegacy(cpuid: Cpuid): Omit<Topology, 'package'> {
  const cores = field(cpuid(4).eax, 31, 26) + 1;
  const ht = field(cpuid(1).edx, 28, 28) === 1;
  const total = order(field(cpuid(1).ebx, 23, 16));
  if (ht && total < order(cores)) throw new Error('fewer threads than cores: Linux warns');
  const threadBits = ht ? total - order(cores) : 0;
  return {
    apicId: apicIdOfLeaf1(cpuid),
    threadBits,
    packageBits: threadBits + order(cores),
    threadsPerCore: 2 ** threadBits,
    threadsPerPackage: cores * 2 ** threadBits,
  };
}

/**
 * Threads that Linux before 6.9 counts a core on AMD, where it goes by leaf 1 first: HTT counts logical processors,
 * unless CmpLegacy says that these are cores.
 */
export function threadsOfOldAmdLinux(cpuid: Cpuid): number {
  if (hasTopoext(cpuid)) return field(cpuid(0x8000_001e).ebx, 15, 8) + 1;
  const ht = field(cpuid(1).edx, 28, 28) === 1;
  const cmpLegacy = field(cpuid(0x8000_0001).ecx, 1, 1) === 1;
  return ht && !cmpLegacy ? field(cpuid(1).ebx, 23, 16) : 1;
}

export type Cache = { type: number; level: number; bytes: number; group: number };

/** The caches of a processor, each with the group of APIC ids that share it. */
export function linuxCaches(cpuid: Cpuid, apicId: number): Cache[] {
  const leaf = isAmd(cpuid) ? 0x8000_001d : 4;
  const caches: Cache[] = [];
  for (let index = 0; ; index++) {
    const { eax, ebx, ecx } = cpuid(leaf, index);
    if (field(eax, 4, 0) === 0) return caches;
    if (index > 16) throw new Error('the list of caches does not end');
    caches.push({
      type: field(eax, 4, 0),
      level: field(eax, 7, 5),
      bytes: (field(ebx, 31, 22) + 1) * (field(ebx, 21, 12) + 1) * (field(ebx, 11, 0) + 1) * (ecx + 1),
      group: apicId >> order(field(eax, 25, 14) + 1),
    });
  }
}
