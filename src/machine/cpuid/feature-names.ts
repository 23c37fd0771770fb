import type { Register } from './table.ts';

/** Bits of one register. A feature's are of one leaf, some features have them in two. */
export type FeatureBits = {
  readonly leaf: number;
  readonly index: number;
  readonly register: Register;
  /** unsigned 32 bits */
  readonly mask: number;
};

/**
 * Features by register, bit 0 first, `-` where there is none. The names are those that Linux has in /proc/cpuinfo;
 * the bits are those of Intel's SDM, volume 2, CPUID, and AMD's APM, volume 3, appendix E.
 */
const REGISTERS: readonly (readonly [leaf: number, index: number, register: Register, names: string])[] = [
  [
    0x1,
    0,
    'edx',
    `fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse
    sse2 ss ht tm ia64 pbe`,
  ],
  [
    0x1,
    0,
    'ecx',
    `pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2
    x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor`,
  ],
  [
    0x6,
    0,
    'eax',
    'dtherm ida arat - pln - pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req - - - - - - - hfi',
  ],
  [0x6, 0, 'ecx', 'aperfmperf - - epb'],
  [
    0x7,
    0,
    'ebx',
    `fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx
    smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl`,
  ],
  [
    0x7,
    0,
    'ecx',
    `- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 user_shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme
    avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc`,
  ],
  [
    0x7,
    0,
    'edx',
    `- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - pconfig
    arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d arch_capabilities`,
  ],
  [0x7, 1, 'eax', '- - - - avx_vnni avx512_bf16 - - - - - - - - - - - fred - - - - - - - - lam'],
  [0xd, 1, 'eax', 'xsaveopt xsavec xgetbv1 xsaves'],
  [
    0x8000_0001,
    0,
    'edx',
    '- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow',
  ],
  [
    0x8000_0001,
    0,
    'ecx',
    `lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4
    tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx`,
  ],
  [0x8000_0007, 0, 'ebx', 'overflow_recov succor - smca'],
  [0x8000_0007, 0, 'edx', '- - - - - - - hw_pstate constant_tsc cpb - proc_feedback acc_power'],
  [
    0x8000_0008,
    0,
    'ebx',
    `clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - - - - - - - - - - - - amd_ppin - virt_ssbd - cppc - - -
    brs`,
  ],
  [
    0x8000_000a,
    0,
    'edx',
    `npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists - - pausefilter - pfthreshold avic -
    v_vmsave_vmload vgif - x2avic - v_spec_ctrl - - - - vnmi`,
  ],
  [0x8000_001f, 0, 'eax', 'sme sev - sev_es sev_snp - - - - - - - - - debug_swap'],
  [0x8000_0022, 0, 'eax', 'perfmon_v2 amd_lbr_v2'],
  [0xc000_0001, 0, 'edx', '- - rng rng_en - - ace ace_en ace2 ace2_en phe phe_en pmm pmm_en'],
];

const bit = (leaf: number, index: number, register: Register, number: number): FeatureBits => ({
  leaf,
  index,
  register,
  mask: 2 ** number,
});

/** Features that one bit does not tell: Intel and AMD have a bit each, or there is a number. */
const OTHERS: readonly (readonly [name: string, bits: readonly FeatureBits[]])[] = [
  ['ibrs', [bit(0x7, 0, 'edx', 26), bit(0x8000_0008, 0, 'ebx', 14)]],
  ['ibpb', [bit(0x7, 0, 'edx', 26), bit(0x8000_0008, 0, 'ebx', 12)]],
  ['stibp', [bit(0x7, 0, 'edx', 27), bit(0x8000_0008, 0, 'ebx', 15)]],
  ['ssbd', [bit(0x7, 0, 'edx', 31), bit(0x8000_0008, 0, 'ebx', 24)]],
  // Linux shows the one bit of the invariant TSC under two names.
  ['nonstop_tsc', [bit(0x8000_0007, 0, 'edx', 8)]],
  // the version of architectural performance monitoring, 0 for none
  ['arch_perfmon', [{ leaf: 0xa, index: 0, register: 'eax', mask: 0xff }]],
];

/** Bits of leaf 1 EDX that AMD has in leaf 0x80000001 EDX too. */
const ALIASED = 0x0183_f3ff;

function collect(): Map<string, readonly FeatureBits[]> {
  const features = new Map<string, readonly FeatureBits[]>(OTHERS);
  for (const [leaf, index, register, names] of REGISTERS) {
    names.split(/\s+/).forEach((name, number) => {
      if (name === '-') return;
      const bits = [bit(leaf, index, register, number)];
      const isAliased = leaf === 1 && register === 'edx' && (ALIASED & (1 << number)) !== 0;
      if (isAliased) bits.push(bit(0x8000_0001, 0, 'edx', number));
      features.set(name, bits);
    });
  }
  return features;
}

/** Every feature that can be named, with its bits. */
export const FEATURES: ReadonlyMap<string, readonly FeatureBits[]> = collect();
