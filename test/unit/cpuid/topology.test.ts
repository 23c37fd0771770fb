import { describe, expect, it } from 'vitest';
import type { CpuidEntry } from '../../../src/kvm/cpuid-entry.ts';
import { buildCpuid, type CpuidOptions } from '../../../src/machine/cpuid/build.ts';
import { cpuidOf, linuxCaches, linuxTopology, threadsOfOldAmdLinux, type Cpuid } from './guest.ts';
import { AMD_ROME, INTEL_CASCADE_LAKE } from './hosts.ts';

const KIB = 1024;
const COUNTS = [1, 2, 3, 4, 6, 8, 17, 32];

/** the guest's processors */
function guest(
  supported: readonly CpuidEntry[],
  vcpus: number,
  options: Partial<CpuidOptions> = {},
): Cpuid[] {
  return Array.from({ length: vcpus }, (_, index) =>
    cpuidOf(buildCpuid({ supported, vcpus, index, tscDeadline: true, ...options })),
  );
}

const without = (leaf: number): CpuidEntry[] => AMD_ROME.filter((entry) => entry.function !== leaf);
const withMaxLeaf = (entries: readonly CpuidEntry[], eax: number): CpuidEntry[] =>
  entries.map((entry) => (entry.function === 0 ? { ...entry, eax } : entry));

const HOSTS: [name: string, supported: CpuidEntry[], features: string][] = [
  ['AMD', AMD_ROME, ''],
  ['AMD without TopologyExtensions', AMD_ROME, '-topoext'],
  [
    'AMD whose KVM has neither topology nor cache leaves',
    without(0x8000_001d).filter(({ function: leaf }) => leaf !== 0xb && leaf !== 0x8000_001e),
    '',
  ],
  ['Intel', INTEL_CASCADE_LAKE, ''],
  ['Intel up to leaf 0x1f', withMaxLeaf(INTEL_CASCADE_LAKE, 0x1f), ''],
  ['Intel up to leaf 0xa', withMaxLeaf(INTEL_CASCADE_LAKE, 0xa), ''],
];

describe.each(HOSTS)('the topology on %s', (_, supported, features) => {
  it.each(COUNTS)('is one package of %i cores with one thread each', (vcpus) => {
    const topologies = guest(supported, vcpus, { features }).map(linuxTopology);
    const bits = Math.ceil(Math.log2(vcpus));
    // Where there is no extended leaf, Intel can tell powers of two only.
    const total = features === '' && supported[0]!.eax === 0xa ? 2 ** bits : vcpus;
    expect(topologies).toEqual(
      topologies.map((_topology, apicId) => ({
        apicId,
        threadBits: 0,
        packageBits: bits,
        threadsPerCore: 1,
        threadsPerPackage: total,
        package: 0,
      })),
    );
  });

  it.each(COUNTS)('has the same APIC id of %i processors in leaf 1', (vcpus) => {
    expect(guest(supported, vcpus, { features }).map((cpuid) => cpuid(1).ebx >>> 24)).toEqual(
      Array.from({ length: vcpus }, (_unused, i) => i),
    );
  });
});

describe.each([
  ['with TopologyExtensions', ''],
  ['without', '-topoext'],
])('on AMD %s, Linux before 6.9', (_, features) => {
  it.each(COUNTS)('takes %i processors for cores, not for threads', (vcpus) => {
    for (const cpuid of guest(AMD_ROME, vcpus, { features })) expect(threadsOfOldAmdLinux(cpuid)).toBe(1);
  });
});

describe('leaf 1', () => {
  it.each([
    [1, 0],
    [2, 1],
    [32, 1],
  ])('of %i processors has their number and HTT %i', (vcpus, htt) => {
    const [cpuid] = guest(INTEL_CASCADE_LAKE, vcpus);
    expect((cpuid!(1).ebx >>> 16) & 0xff).toBe(vcpus);
    expect((cpuid!(1).edx >>> 28) & 1).toBe(htt);
  });

  it('keeps the size that CLFLUSH has on the host', () => {
    const [cpuid] = guest(AMD_ROME, 2);
    expect((cpuid!(1).ebx >>> 8) & 0xff).toBe(8);
  });
});

describe('on AMD', () => {
  it.each([
    [1, 0],
    [2, 1],
  ])('CmpLegacy goes with HTT: %i processors', (vcpus, expected) => {
    const [cpuid] = guest(AMD_ROME, vcpus);
    expect((cpuid!(0x8000_0001).ecx >>> 1) & 1).toBe(expected);
  });

  it.each([
    [1, 0, 0],
    [3, 2, 2],
    [32, 31, 5],
  ])('leaf 0x80000008 has the cores of %i processors', (vcpus, lastCore, bits) => {
    const { ecx } = guest(AMD_ROME, vcpus)[0]!(0x8000_0008);
    expect([ecx & 0xff, (ecx >>> 12) & 0xf]).toEqual([lastCore, bits]);
  });

  it('leaf 0x80000026 is taken away, which has the host’s topology', () => {
    const supported = [
      ...AMD_ROME,
      { function: 0x8000_0026, index: 0, flags: 1, eax: 1, ebx: 2, ecx: 0x100, edx: 0x2a },
    ];
    expect(guest(supported, 2)[0]!(0x8000_0026)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  it('without TopologyExtensions its leaves are not there', () => {
    const entries = buildCpuid({
      supported: AMD_ROME,
      vcpus: 2,
      index: 1,
      tscDeadline: true,
      features: '-topoext',
    });
    expect(entries.filter(({ function: leaf }) => leaf === 0x8000_001d || leaf === 0x8000_001e)).toEqual([]);
  });

  it('a KVM whose leaves end before 0x8000001e gives no TopologyExtensions', () => {
    const supported = AMD_ROME.map((entry) =>
      entry.function === 0x8000_0000 ? { ...entry, eax: 0x8000_001a } : entry,
    );
    const [cpuid] = guest(supported, 2);
    expect((cpuid!(0x8000_0001).ecx >>> 22) & 1).toBe(0);
    expect(linuxTopology(cpuid!).threadsPerPackage).toBe(2);
  });
});

describe.each([
  ['Intel', INTEL_CASCADE_LAKE, [32 * KIB, 32 * KIB, 1024 * KIB, 36_608 * KIB]],
  ['AMD', AMD_ROME, [32 * KIB, 32 * KIB, 512 * KIB, 16_384 * KIB]],
  // all of the package's L3, which is all that the older leaves tell
  ['AMD with older leaves only', without(0x8000_001d), [32 * KIB, 32 * KIB, 512 * KIB, 262_144 * KIB]],
])('the caches on %s', (_, supported, sizes) => {
  it('have the sizes of the host’s', () => {
    const caches = linuxCaches(guest(supported, 4)[0]!, 0);
    expect(caches.map(({ level, type }) => [level, type])).toEqual([
      [1, 1],
      [1, 2],
      [2, 3],
      [3, 3],
    ]);
    expect(caches.map(({ bytes }) => bytes)).toEqual(sizes);
  });

  it.each(COUNTS)('are a core’s own up to the second level, the third is of all %i', (vcpus) => {
    const all = guest(supported, vcpus).map((cpuid, apicId) => linuxCaches(cpuid, apicId));
    for (const cache of [0, 1, 2])
      expect(new Set(all.map((caches) => caches[cache]!.group)).size).toBe(vcpus);
    expect(new Set(all.map((caches) => caches[3]!.group)).size).toBe(1);
  });
});

it('core ids of Intel’s leaf 4 are a power of two that holds them', () => {
  const { eax } = guest(INTEL_CASCADE_LAKE, 6)[0]!(4, 0);
  expect(eax >>> 26).toBe(7);
});
