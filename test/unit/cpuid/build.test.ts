import { describe, expect, it } from 'vitest';
import { decodeCpuid, encodeCpuid, type CpuidEntry } from '../../../src/kvm/cpuid-entry.ts';
import { buildCpuid, type CpuidOptions } from '../../../src/machine/cpuid/build.ts';
import { cpuidOf, type Cpuid } from './guest.ts';
import { AMD_ROME, INTEL_CASCADE_LAKE } from './hosts.ts';

const build = (supported: readonly CpuidEntry[], options: Partial<CpuidOptions> = {}): CpuidEntry[] =>
  buildCpuid({ supported, vcpus: 4, index: 2, tscDeadline: true, ...options });
const ZERO = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

describe.each([
  ['AMD', AMD_ROME],
  ['Intel', INTEL_CASCADE_LAKE],
])('the table on %s', (_, supported) => {
  it('leaves KVM’s own alone', () => {
    const before = structuredClone(supported);
    build(supported, { features: '-rdrand', tscKhz: 2_500_000 });
    expect(supported).toEqual(before);
  });

  it('has every number in 32 bits, unsigned', () => {
    for (const entry of build(supported, { tscKhz: 2_500_000 })) {
      for (const value of Object.values(entry)) {
        expect(Number.isInteger(value) && value >= 0 && value < 2 ** 32, JSON.stringify(entry)).toBe(true);
      }
    }
  });

  it('has no leaf and index twice', () => {
    const keys = build(supported).map(({ function: leaf, index }) => `${leaf}.${index}`);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('is small enough for every kernel', () => {
    // KVM_MAX_CPUID_ENTRIES was 80 up to Linux 5.9
    expect(build(supported).length).toBeLessThanOrEqual(80);
  });

  it('is the same for all vCPUs but where the APIC id is', () => {
    const others = [0, 1, 3].map((index) => build(supported, { index }));
    const reference = build(supported, { index: 2 });
    for (const [n, entries] of others.entries()) {
      const differing = entries.filter((entry, i) => JSON.stringify(entry) !== JSON.stringify(reference[i]));
      const expected = supported === AMD_ROME ? [1, 0xb, 0xb, 0xb, 0x8000_001e] : [1, 0xb, 0xb, 0xb];
      expect(
        differing.map(({ function: leaf }) => leaf),
        `vCPU ${[0, 1, 3][n]!}`,
      ).toEqual(expected);
    }
  });

  it('comes back from KVM’s format', () => {
    const entries = build(supported);
    expect(decodeCpuid(encodeCpuid(entries))).toEqual(entries);
  });
});

it('keeps leaves that are there several times, as older kernels have leaf 2', () => {
  const stateful = INTEL_CASCADE_LAKE.filter(({ function: leaf }) => leaf === 2).flatMap((entry) => [
    { ...entry, flags: 6 },
    { ...entry, flags: 2, edx: 1 },
  ]);
  const supported = [...INTEL_CASCADE_LAKE.filter(({ function: leaf }) => leaf !== 2), ...stateful];
  expect(build(supported).filter(({ function: leaf }) => leaf === 2)).toEqual(stateful);
});

describe('frequencies', () => {
  const guest = (supported: readonly CpuidEntry[], tscKhz?: number, features = ''): Cpuid =>
    cpuidOf(build(supported, { features, ...(tscKhz === undefined ? {} : { tscKhz }) }));

  it('are told behind KVM’s signature, which is raised to the leaf', () => {
    const cpuid = guest(AMD_ROME, 2_245_781);
    expect(cpuid(0x4000_0000).eax).toBe(0x4000_0010);
    expect(cpuid(0x4000_0010)).toEqual({ eax: 2_245_781, ebx: 1_000_000, ecx: 0, edx: 0 });
  });

  it('keep the signature’s name', () => {
    const { ebx, ecx, edx } = guest(AMD_ROME, 2_245_781)(0x4000_0000);
    expect(Buffer.from(new Uint32Array([ebx, ecx, edx]).buffer).toString()).toBe('KVMKVMKVM\0\0\0');
  });

  it('are not told where they are not known', () => {
    const cpuid = guest(INTEL_CASCADE_LAKE);
    expect(cpuid(0x4000_0000).eax).toBe(0x4000_0001);
    expect([0x4000_0010, 0x15, 0x16].map((leaf) => cpuid(leaf))).toEqual([ZERO, ZERO, ZERO]);
  });

  it('are not told without KVM’s signature', () => {
    const supported = AMD_ROME.filter(({ function: leaf }) => leaf < 0x4000_0000 || leaf >= 0x8000_0000);
    expect(guest(supported, 2_245_781)(0x4000_0010)).toEqual(ZERO);
  });

  it.each([2_500_000, 2_000_000, 3_000_000, 2_250_000])(
    'of a TSC of %i kHz are a ratio to the APIC’s clock on Intel',
    (khz) => {
      const { eax, ebx, ecx } = guest(INTEL_CASCADE_LAKE, khz)(0x15);
      // the clock of KVM's local APIC
      expect(ecx).toBe(1_000_000_000);
      expect((ecx * ebx) / eax).toBe(khz * 1000);
      // Linux multiplies the crystal's kHz by the numerator in 32 bits
      expect((ecx / 1000) * ebx).toBeLessThan(2 ** 32);
    },
  );

  it('leave the ratio out where Linux could not calculate it', () => {
    expect(guest(INTEL_CASCADE_LAKE, 2_499_998)(0x15)).toEqual(ZERO);
  });

  it('leave the ratio out without an invariant TSC', () => {
    expect(guest(INTEL_CASCADE_LAKE, 2_500_000, '-constant_tsc')(0x15)).toEqual(ZERO);
  });

  it('leave the ratio out on AMD', () => {
    const supported = AMD_ROME.map((entry) => (entry.function === 0 ? { ...entry, eax: 0x1f } : entry));
    expect(guest(supported, 2_500_000, '+constant_tsc')(0x15)).toEqual(ZERO);
  });

  it('never pass the host’s nominal frequency on', () => {
    expect(guest(INTEL_CASCADE_LAKE, 2_500_000)(0x16)).toEqual(ZERO);
  });
});

describe('is refused:', () => {
  it.each<[string, Partial<CpuidOptions>, RegExp]>([
    ['no vCPU', { vcpus: 0, index: 0 }, /1 to 32 vCPUs, not 0/],
    ['33 vCPUs', { vcpus: 33 }, /1 to 32 vCPUs, not 33/],
    ['a vCPU beyond them', { index: 4 }, /no vCPU 4/],
    ['a negative vCPU', { index: -1 }, /no vCPU -1/],
    ['a TSC that stands still', { tscKhz: 0 }, /0 is no TSC frequency/],
    ['a TSC frequency beyond 32 bits', { tscKhz: 2 ** 32 }, /no TSC frequency/],
    ['an empty table', { supported: [] }, /no leaf 0 and 1/],
  ])('%s', (_, options, message) => {
    expect(() => build(AMD_ROME, options)).toThrow(RangeError);
    expect(() => build(AMD_ROME, options)).toThrow(message);
  });
});
