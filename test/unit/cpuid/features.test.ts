import { describe, expect, it } from 'vitest';
import type { CpuidEntry } from '../../../src/kvm/cpuid-entry.ts';
import { buildCpuid, CpuFeatureError, type CpuidOptions } from '../../../src/machine/cpuid/build.ts';
import { FEATURES } from '../../../src/machine/cpuid/feature-names.ts';
import { cpuidOf, type Cpuid } from './guest.ts';
import { AMD_ROME, INTEL_CASCADE_LAKE } from './hosts.ts';

const build = (supported: readonly CpuidEntry[], features = '', options: Partial<CpuidOptions> = {}): Cpuid =>
  cpuidOf(buildCpuid({ supported, vcpus: 2, index: 1, tscDeadline: true, features, ...options }));
const intel = (features = ''): Cpuid => build(INTEL_CASCADE_LAKE, features);
const amd = (features = ''): Cpuid => build(AMD_ROME, features);

const bit = (value: number, number: number): number => (value >>> number) & 1;

describe('names', () => {
  // some of every register, by the manuals
  it.each([
    ['sse2', 0x1, 0, 'edx', 26],
    ['avx', 0x1, 0, 'ecx', 28],
    ['rdrand', 0x1, 0, 'ecx', 30],
    ['tsc_deadline_timer', 0x1, 0, 'ecx', 24],
    ['arat', 0x6, 0, 'eax', 2],
    ['avx2', 0x7, 0, 'ebx', 5],
    ['rdseed', 0x7, 0, 'ebx', 18],
    ['smap', 0x7, 0, 'ebx', 20],
    ['avx512vl', 0x7, 0, 'ebx', 31],
    ['pku', 0x7, 0, 'ecx', 3],
    ['la57', 0x7, 0, 'ecx', 16],
    ['rdpid', 0x7, 0, 'ecx', 22],
    ['fsrm', 0x7, 0, 'edx', 4],
    ['arch_capabilities', 0x7, 0, 'edx', 29],
    ['avx512_bf16', 0x7, 1, 'eax', 5],
    ['xsaves', 0xd, 1, 'eax', 3],
    ['pdpe1gb', 0x8000_0001, 0, 'edx', 26],
    ['topoext', 0x8000_0001, 0, 'ecx', 22],
    ['svm', 0x8000_0001, 0, 'ecx', 2],
    ['constant_tsc', 0x8000_0007, 0, 'edx', 8],
    ['clzero', 0x8000_0008, 0, 'ebx', 0],
    ['virt_ssbd', 0x8000_0008, 0, 'ebx', 25],
    ['vgif', 0x8000_000a, 0, 'edx', 16],
  ] as const)('%s is in leaf %i', (name, leaf, index, register, number) => {
    expect(FEATURES.get(name)).toEqual([{ leaf, index, register, mask: 2 ** number }]);
  });

  it('of leaf 1 that AMD repeats are in both leaves', () => {
    expect(FEATURES.get('mmx')!.map(({ leaf, mask }) => [leaf, mask])).toEqual([
      [0x1, 2 ** 23],
      [0x8000_0001, 2 ** 23],
    ]);
  });
});

describe('by default', () => {
  it.each([
    ['Intel', intel],
    ['AMD', amd],
  ])('the guest on %s sees a hypervisor, x2APIC and the deadline timer', (_, guest) => {
    const { ecx } = guest()(1);
    expect([31, 21, 24].map((number) => bit(ecx, number))).toEqual([1, 1, 1]);
  });

  it('there is no deadline timer where KVM has none', () => {
    expect(bit(build(AMD_ROME, '', { tscDeadline: false })(1).ecx, 24)).toBe(0);
  });

  it('Intel’s performance counters are left out, with all that hangs on them', () => {
    const cpuid = intel();
    expect(cpuid(0xa)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
    // pdcm, dtes64; dts
    expect([bit(cpuid(1).ecx, 15), bit(cpuid(1).ecx, 2), bit(cpuid(1).edx, 21)]).toEqual([0, 0, 0]);
    // the bit that announces leaf 0x23; its neighbour stays
    expect([bit(cpuid(7, 1).eax, 8), bit(cpuid(7, 1).eax, 5)]).toEqual([0, 1]);
  });

  it('AMD’s are too', () => {
    expect(bit(amd()(0x8000_0001).ecx, 23)).toBe(0);
  });

  it('the invariant TSC is left out on AMD only', () => {
    expect(bit(amd()(0x8000_0007).edx, 8)).toBe(0);
    expect(bit(intel()(0x8000_0007).edx, 8)).toBe(1);
  });

  it('SEV of the host is not shown', () => {
    expect(amd()(0x8000_001f)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  it('SGX is not shown', () => {
    const cpuid = intel();
    expect(bit(cpuid(7).ebx, 2)).toBe(0);
    expect(cpuid(0x12)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  it('AMX is not shown without its state', () => {
    expect(bit(intel()(7).edx, 24)).toBe(0);
  });

  it.each([
    ['AMD', AMD_ROME, amd],
    ['Intel', INTEL_CASCADE_LAKE, intel],
  ])('the XSAVE leaf of %s is as KVM has it', (_, supported, guest) => {
    const host = cpuidOf(supported);
    const cpuid = guest();
    for (let index = 0; index < 10; index++) expect(cpuid(0xd, index)).toEqual(host(0xd, index));
  });

  it('KVM’s own leaves are kept', () => {
    expect(amd()(0x4000_0001)).toEqual(cpuidOf(AMD_ROME)(0x4000_0001));
    expect(amd()(0x4000_0000)).toEqual(cpuidOf(AMD_ROME)(0x4000_0000));
  });
});

describe('a spec', () => {
  it('removes', () => {
    expect(bit(amd('-rdrand')(1).ecx, 30)).toBe(0);
    expect(bit(amd('-rdseed')(1).ecx, 30)).toBe(1);
  });

  it('may have blanks and empty parts', () => {
    const cpuid = amd(' -rdrand , ,-rdseed,');
    expect([bit(cpuid(1).ecx, 30), bit(cpuid(7).ebx, 18)]).toEqual([0, 0]);
  });

  it('takes what is there already', () => {
    expect(
      buildCpuid({ supported: AMD_ROME, vcpus: 1, index: 0, tscDeadline: true, features: '+avx2' }),
    ).toEqual(buildCpuid({ supported: AMD_ROME, vcpus: 1, index: 0, tscDeadline: true }));
  });

  it('removes both copies of a bit on AMD', () => {
    const cpuid = amd('-mmx');
    expect([bit(cpuid(1).edx, 23), bit(cpuid(0x8000_0001).edx, 23)]).toEqual([0, 0]);
  });

  it('removes Intel’s and AMD’s bit of one feature', () => {
    const cpuid = intel('-ssbd');
    expect([bit(cpuid(7).edx, 31), bit(cpuid(0x8000_0008).ebx, 24)]).toEqual([0, 0]);
  });

  it('removes what cannot be without', () => {
    const cpuid = intel('-avx');
    // fma, f16c; avx2, avx512f, avx512bw; avx512_vnni; avx512_bf16
    expect([12, 29].map((number) => bit(cpuid(1).ecx, number))).toEqual([0, 0]);
    expect([5, 16, 30].map((number) => bit(cpuid(7).ebx, number))).toEqual([0, 0, 0]);
    expect([bit(cpuid(7).ecx, 11), bit(cpuid(7, 1).eax, 5)]).toEqual([0, 0]);
    // bmi1 does without
    expect(bit(cpuid(7).ebx, 3)).toBe(1);
  });

  it('removes the states of what it removes, and their room', () => {
    const cpuid = intel('-pku,-avx512f');
    expect(cpuid(0xd).eax).toBe(0b11111);
    // BNDCSR at 0x400 is the last
    expect(cpuid(0xd).ecx).toBe(0x440);
    for (const index of [5, 6, 7, 9]) expect(cpuid(0xd, index).eax).toBe(0);
    expect(cpuid(0xd, 2).eax).toBe(0x100);
  });

  it('without XSAVE leaves nothing of its leaf', () => {
    const cpuid = amd('-xsave');
    expect([0, 1, 2].map((index) => cpuid(0xd, index).eax)).toEqual([0, 0, 0]);
    expect([bit(cpuid(1).ecx, 28), bit(cpuid(7).ebx, 5)]).toEqual([0, 0]);
  });

  it('without SVM empties its leaf', () => {
    expect(amd()(0x8000_000a).eax).toBe(1);
    expect(amd('-svm')(0x8000_000a)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  it('adds Intel’s performance counters', () => {
    expect(intel('+arch_perfmon')(0xa)).toEqual(cpuidOf(INTEL_CASCADE_LAKE)(0xa));
  });

  it('adds AMD’s performance counters', () => {
    expect(bit(amd('+perfctr_core')(0x8000_0001).ecx, 23)).toBe(1);
  });

  it.each(['+constant_tsc', '+nonstop_tsc'])('adds the invariant TSC on AMD: %s', (features) => {
    expect(bit(amd(features)(0x8000_0007).edx, 8)).toBe(1);
  });

  it('can remove the deadline timer', () => {
    expect(bit(amd('-tsc_deadline_timer')(1).ecx, 24)).toBe(0);
  });
});

describe('a spec is refused', () => {
  it.each([
    ['+avx3', /unknown CPU feature "avx3"; the nearest name is "avx2?"/],
    ['-rdrnd', /nearest name is "rdrand"/],
    ['+sse4.2', /nearest name is "sse4_2"/],
    ['avx2', /"avx2": write \+name to add it, -name to remove it/],
    ['+', /write \+name/],
    ['+avx2 -rdrand', /write \+name/],
    ['+avx2,-avx2', /"avx2" is named twice/],
    ['-ht', /"ht" cannot be changed: it follows from the number of processors/],
    ['-hypervisor', /cannot be changed/],
    ['+sev', /"sev" cannot be added: tsvm does not launch encrypted VMs/],
    ['+avx512f', /"avx512f" is not supported by KVM on this host/],
    ['+pcid', /"pcid" is not supported/],
    ['+fma,-avx', /"fma" cannot be added: it needs avx/],
    ['+avx2,-xsave', /"avx2" cannot be added: it needs avx, xsave/],
    ['+constant_tsc,-nonstop_tsc', /"constant_tsc" cannot be added: another name of it is removed/],
    ['+__proto__', /unknown CPU feature/],
  ])('%s', (features, message) => {
    expect(() => amd(features)).toThrow(CpuFeatureError);
    expect(() => amd(features)).toThrow(message);
  });

  it('where the feature’s state is not there: +amx_tile', () => {
    expect(() => intel('+amx_tile')).toThrow(/"amx_tile" is not supported/);
  });

  it('naming the feature at fault', () => {
    try {
      amd('-rdrand,+avx512f');
      expect.unreachable();
    } catch (error) {
      expect((error as CpuFeatureError).feature).toBe('avx512f');
    }
  });
});
