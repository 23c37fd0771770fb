/**
 * What KVM_GET_SUPPORTED_CPUID returns on hosts of two kinds, made by hand from the processors' manuals and KVM's
 * filters (arch/x86/kvm/cpuid.c): an AMD EPYC of the second generation with 64 cores, and an Intel Xeon Scalable of
 * the second with 24 cores, both with two threads a core. The topology in them is the host's, as older kernels
 * pass it on.
 */

import type { CpuidEntry } from '../../../src/kvm/cpuid-entry.ts';

type Registers = readonly [eax: number, ebx: number, ecx: number, edx: number];

const leaf = (number: number, [eax, ebx, ecx, edx]: Registers): CpuidEntry => ({
  function: number,
  index: 0,
  flags: 0,
  eax: eax >>> 0,
  ebx: ebx >>> 0,
  ecx: ecx >>> 0,
  edx: edx >>> 0,
});

const subleaves = (number: number, list: Readonly<Record<number, Registers>>): CpuidEntry[] =>
  Object.entries(list).map(([index, registers]) => ({
    ...leaf(number, registers),
    index: Number(index),
    flags: 1,
  }));

const text = (letters: string): number[] => [
  ...new Uint32Array(new Uint8Array(Buffer.from(letters.padEnd(12, '\0'), 'latin1')).buffer),
];
const vendor = (maxLeaf: number, name: string): Registers => {
  const [ebx, edx, ecx] = text(name) as [number, number, number];
  return [maxLeaf, ebx, ecx, edx];
};

/** The bits with these numbers. */
const bits = (...numbers: number[]): number => numbers.reduce((sum, number) => sum + 2 ** number, 0);
const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

// fpu to apic, sep to pse36, clflush, mmx to sse2
const COMMON_1_EDX = bits(...range(0, 9), ...range(11, 17), 19, ...range(23, 26));

const KVM_LEAVES = [
  leaf(0x4000_0000, [0x4000_0001, ...(text('KVMKVMKVM') as [number, number, number])]),
  leaf(0x4000_0001, [0x0100_7efb, 0, 0, 0]),
];

export const AMD_ROME: CpuidEntry[] = [
  leaf(0, vendor(0x10, 'AuthenticAMD')),
  // family 0x17, model 0x31; host's APIC id 0x2a, 128 threads; pni, pclmulqdq, ssse3, fma, cx16, sse4_1, sse4_2,
  // x2apic, movbe, popcnt, aes, xsave, avx, f16c, rdrand
  leaf(1, [
    0x0083_0f10,
    0x2a80_0800,
    bits(0, 1, 9, 12, 13, ...range(19, 23), 25, 26, 28, 29, 30),
    COMMON_1_EDX,
  ]),
  leaf(2, [0, 0, 0, 0]),
  leaf(3, [0, 0, 0, 0]),
  leaf(5, [0, 0, 0, 0]),
  leaf(6, [4, 0, 0, 0]),
  // fsgsbase, tsc_adjust, bmi1, avx2, smep, bmi2, rdseed, adx, smap, clflushopt, clwb, sha_ni; umip, rdpid
  ...subleaves(7, { 0: [0, bits(0, 1, 3, 5, 7, 8, 18, 19, 20, 23, 24, 29), bits(2, 22), 0] }),
  leaf(0xa, [0, 0, 0, 0]),
  ...subleaves(0xb, { 0: [1, 2, 0x100, 0x2a], 1: [7, 128, 0x201, 0x2a], 2: [0, 0, 2, 0x2a] }),
  // x87, SSE, AVX; xsaveopt, xsavec, xgetbv1, xsaves
  ...subleaves(0xd, { 0: [7, 0x340, 0x340, 0], 1: [0xf, 0x340, 0, 0], 2: [0x100, 0x240, 0, 0] }),
  ...KVM_LEAVES,
  leaf(0x8000_0000, vendor(0x8000_0021, 'AuthenticAMD')),
  // lahf_lm, cmp_legacy, svm, cr8_legacy, abm, sse4a, misalignsse, 3dnowprefetch, osvw, topoext, perfctr_core;
  // the copies of leaf 1, syscall, nx, mmxext, fxsr_opt, pdpe1gb, rdtscp, lm
  leaf(0x8000_0001, [
    0x0083_0f10,
    0,
    bits(0, 1, 2, 4, 5, 6, 7, 8, 9, 22, 23),
    bits(...range(0, 9), 11, ...range(12, 17), 20, 22, 23, 24, 25, 26, 27, 29),
  ]),
  // L1: 32 KiB of 8 ways each; L2: 512 KiB of 8 ways; L3: 256 MiB, its ways in leaf 0x8000001d
  leaf(0x8000_0005, [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140]),
  leaf(0x8000_0006, [0x4800_6400, 0x6800_6400, 0x0200_6140, 0x0800_9140]),
  // invariant TSC
  leaf(0x8000_0007, [0, 0, 0, bits(8)]),
  // 128 threads, 7 bits of APIC id; clzero, xsaveerptr, wbnoinvd, ibpb, ibrs, stibp, ssbd
  leaf(0x8000_0008, [0x0000_3030, bits(0, 2, 9, 12, 14, 15, 24), 0x0000_707f, 0]),
  leaf(0x8000_000a, [1, 8, 0, bits(0, 3)]),
  // per cache: type, level, self-initializing, host's sharing; L3 of 16 MiB shared by 8 threads
  ...subleaves(0x8000_001d, {
    0: [0x0000_4121, 0x01c0_003f, 0x3f, 0],
    1: [0x0000_4122, 0x01c0_003f, 0x3f, 0],
    2: [0x0000_4143, 0x01c0_003f, 0x3ff, 2],
    3: [0x0001_c163, 0x03c0_003f, 0x3fff, 1],
    4: [0, 0, 0, 0],
  }),
  leaf(0x8000_001e, [0x2a, 0x115, 0, 0]),
  // SEV of the host: sev and sev_es, C-bit 47
  leaf(0x8000_001f, [bits(1, 3), 0x6f, 0x1fd, 1]),
  leaf(0x8000_0021, [bits(2, 6), 0, 0, 0]),
];

export const INTEL_CASCADE_LAKE: CpuidEntry[] = [
  leaf(0, vendor(0x16, 'GenuineIntel')),
  // family 6, model 85; host's APIC id 0x13; as above, with pcid, pdcm, vmx and dtes64
  leaf(1, [
    0x0005_0657,
    0x1340_0800,
    bits(0, 1, 2, 5, 9, 12, 13, 15, 17, ...range(19, 23), 25, 26, 28, 29, 30),
    COMMON_1_EDX + bits(21, 27),
  ]),
  leaf(2, [0x7603_6301, 0x00f0_b5ff, 0, 0x00c3_0000]),
  // L1D, L1I: 32 KiB of two threads; L2: 1 MiB; L3: 35.75 MiB of 64 ids; 32 core ids
  ...subleaves(4, {
    0: [0x7c00_4121, 0x01c0_003f, 0x3f, 0],
    1: [0x7c00_4122, 0x01c0_003f, 0x3f, 0],
    2: [0x7c00_4143, 0x03c0_003f, 0x3ff, 0],
    3: [0x7c0f_c163, 0x0280_003f, 0xcfff, 4],
    4: [0, 0, 0, 0],
  }),
  leaf(6, [4, 0, 0, 0]),
  // fsgsbase, tsc_adjust, sgx, bmi1, avx2, smep, bmi2, erms, invpcid, mpx, avx512f, avx512dq, rdseed, adx, smap,
  // clflushopt, clwb, avx512cd, avx512bw, avx512vl; umip, pku, avx512_vnni; ibrs, stibp, arch_capabilities, ssbd,
  // and amx_tile as if KVM knew the bit while the process has no permission for the state
  ...subleaves(7, {
    0: [
      1,
      bits(0, 1, 2, 3, 5, 7, 8, 9, 10, 14, 16, 17, 18, 19, 20, 23, 24, 28, 30, 31),
      bits(2, 3, 11),
      bits(24, 26, 27, 29, 31),
    ],
    1: [bits(5, 8), 0, 0, 0],
  }),
  leaf(0xa, [0x0730_0802, 0, 0, 0x0603]),
  ...subleaves(0xb, { 0: [1, 2, 0x100, 0x13], 1: [6, 48, 0x201, 0x13], 2: [0, 0, 2, 0x13] }),
  // x87, SSE, AVX, MPX, AVX-512, PKU
  ...subleaves(0xd, {
    0: [0x2ff, 0xa88, 0xa88, 0],
    1: [0xf, 0xa08, 0, 0],
    2: [0x100, 0x240, 0, 0],
    3: [0x40, 0x3c0, 0, 0],
    4: [0x40, 0x400, 0, 0],
    5: [0x40, 0x440, 0, 0],
    6: [0x200, 0x480, 0, 0],
    7: [0x400, 0x680, 0, 0],
    9: [8, 0xa80, 0, 0],
  }),
  ...subleaves(0x12, { 0: [1, 0, 0, 0x241f], 1: [0x36, 0, 0x2e7, 0] }),
  leaf(0x14, [0, 0, 0, 0]),
  leaf(0x15, [2, 0xd0, 0x017d_7840, 0]),
  leaf(0x16, [2500, 3900, 100, 0]),
  ...KVM_LEAVES,
  leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
  // lahf_lm, abm, 3dnowprefetch; syscall, nx, pdpe1gb, rdtscp, lm
  leaf(0x8000_0001, [0, 0, bits(0, 5, 8), bits(11, 20, 26, 27, 29)]),
  leaf(0x8000_0006, [0, 0, 0x0100_6040, 0]),
  leaf(0x8000_0007, [0, 0, 0, bits(8)]),
  leaf(0x8000_0008, [0x302e, bits(12, 14, 15, 24), 0, 0]),
];
