/** Which features the guest sees: what KVM supports, less what tsvm leaves out, as the user's spec changes it. */

import { distance } from 'fastest-levenshtein';
import { FEATURES, type FeatureBits } from './feature-names.ts';
import { vendorOf, type CpuidTable } from './table.ts';

/** A feature spec that cannot be met; one line that says why. */
export class CpuFeatureError extends Error {
  override readonly name = 'CpuFeatureError';
  /** the part of the spec that is at fault */
  readonly feature: string;

  constructor(feature: string, message: string) {
    super(message);
    this.feature = feature;
  }
}

/** Features added and removed, by name. */
export type FeatureSpec = { readonly add: readonly string[]; readonly remove: readonly string[] };

/** These follow from the machine, whatever the spec would have. */
const FIXED: Readonly<Record<string, string>> = {
  apic: 'every processor has one',
  ht: 'it follows from the number of processors',
  cmp_legacy: 'it follows from the number of processors',
  hypervisor: 'it is always set',
};

const NO_ENCLAVES = 'tsvm has no enclave memory';
const NOT_ENCRYPTED = 'tsvm does not launch encrypted VMs';
/** KVM supports these for other VMMs; a guest that saw them here would fail where it used them. */
const NOT_OFFERED: Readonly<Record<string, string>> = {
  sgx: NO_ENCLAVES,
  sgx_lc: NO_ENCLAVES,
  sme: NOT_ENCRYPTED,
  sev: NOT_ENCRYPTED,
  sev_es: NOT_ENCRYPTED,
  sev_snp: NOT_ENCRYPTED,
  debug_swap: NOT_ENCRYPTED,
};

/**
 * Reads a spec like `+avx2,-rdrand`; blanks do not count, an empty one changes nothing.
 * @throws CpuFeatureError where it is malformed or names what there is not
 */
export function parseFeatureSpec(spec: string): FeatureSpec {
  const add: string[] = [];
  const remove: string[] = [];
  const parts = spec
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  for (const part of parts) {
    const match = /^([+-])(\S+)$/.exec(part);
    if (match === null) {
      throw new CpuFeatureError(part, `CPU feature "${part}": write +name to add it, -name to remove it`);
    }
    const name = match[2]!;
    if (!FEATURES.has(name)) {
      throw new CpuFeatureError(
        name,
        `unknown CPU feature "${name}"; the nearest name is "${nearest(name)}"`,
      );
    }
    const reason = Object.hasOwn(FIXED, name) ? FIXED[name] : undefined;
    if (reason !== undefined) {
      throw new CpuFeatureError(name, `CPU feature "${name}" cannot be changed: ${reason}`);
    }
    if (match[1] === '+' && Object.hasOwn(NOT_OFFERED, name)) {
      throw new CpuFeatureError(name, `CPU feature "${name}" cannot be added: ${NOT_OFFERED[name]!}`);
    }
    if (add.includes(name) || remove.includes(name)) {
      throw new CpuFeatureError(name, `CPU feature "${name}" is named twice`);
    }
    (match[1] === '+' ? add : remove).push(name);
  }
  return { add, remove };
}

function nearest(name: string): string {
  const distances = [...FEATURES.keys()].map((known) => ({ known, far: distance(name, known) }));
  return distances.reduce((best, next) => (next.far < best.far ? next : best)).known;
}

/** What a feature cannot be used without. */
const REQUIRES: readonly (readonly [needed: string, dependents: string])[] = [
  ['fxsr', 'fxsr_opt sse xsave'],
  ['mmx', 'mmxext 3dnow'],
  ['sse', 'sse2'],
  ['sse2', 'pni ssse3 sse4_1 sse4_2 pclmulqdq aes sha_ni gfni'],
  ['xsave', 'xsaveopt xsavec xgetbv1 xsaves avx pku mpx amx_tile'],
  ['xsaves', 'user_shstk enqcmd'],
  ['avx', 'fma f16c avx2 avx512f vaes vpclmulqdq avx_vnni xop fma4'],
  [
    'avx512f',
    `avx512ifma avx512pf avx512er avx512cd avx512dq avx512bw avx512vl avx512vbmi avx512_4vnniw avx512_4fmaps
    avx512_vpopcntdq`,
  ],
  ['avx512vl', 'avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vp2intersect avx512_bf16'],
  ['avx512bw', 'avx512_fp16'],
  ['amx_tile', 'amx_bf16 amx_int8'],
  ['sgx', 'sgx_lc'],
  ['perfctr_core', 'perfmon_v2'],
];

const REQUIREMENTS: readonly { readonly feature: string; readonly needed: string }[] = REQUIRES.flatMap(
  ([needed, dependents]) => dependents.split(/\s+/).map((feature) => ({ feature, needed })),
);

/**
 * Performance counters cost time at every switch and tell of neighbours: a guest gets them only where the spec adds
 * them.
 */
const COUNTERS =
  'arch_perfmon pdcm dts dtes64 arch_lbr perfctr_core perfctr_nb perfctr_llc perfmon_v2 amd_lbr_v2'.split(
    ' ',
  );

/**
 * On AMD, Linux calls an invariant TSC a firmware bug unless HWCR.TscFreqSel is set, an MSR bit that KVM before
 * Linux 6.8 does not have. Guests keep time by kvmclock without it.
 */
const INVARIANT_TSC = ['constant_tsc', 'nonstop_tsc'];

export function hasFeature(table: CpuidTable, name: string): boolean {
  return bitsOf(name).some(({ leaf, index, register, mask }) => {
    const registers = table.find(leaf, index);
    return registers !== undefined && (registers[register] & mask) !== 0;
  });
}

export function removeFeature(table: CpuidTable, name: string): void {
  for (const { leaf, index, register, mask } of bitsOf(name)) {
    const registers = table.find(leaf, index);
    if (registers !== undefined) registers[register] = (registers[register] & ~mask) >>> 0;
  }
}

const bitsOf = (name: string): readonly FeatureBits[] => FEATURES.get(name) ?? [];

/**
 * Cuts the table, which has all that KVM supports, down to what the guest sees.
 * @throws CpuFeatureError where the spec adds what KVM does not support, or needs what it removes
 */
export function applyFeatures(table: CpuidTable, { add, remove }: FeatureSpec): void {
  for (const name of add) {
    if (!hasFeature(table, name)) {
      throw new CpuFeatureError(name, `CPU feature "${name}" is not supported by KVM on this host`);
    }
  }
  const wanted = withRequirements(add);
  const leftOut = [
    ...COUNTERS,
    ...Object.keys(NOT_OFFERED),
    ...(vendorOf(table) === 'amd' ? INVARIANT_TSC : []),
  ];
  // Two names may mean one bit: what is added goes before what is left out by default.
  const kept = wanted.flatMap(bitsOf);
  for (const name of leftOut) {
    const isKept = bitsOf(name).some((bits) => kept.some((other) => isSameBit(bits, other)));
    if (!isKept) removeFeature(table, name);
  }
  for (const name of remove) removeFeature(table, name);
  removeOrphans(table);
  for (const name of add) {
    if (hasFeature(table, name)) continue;
    const needed = withRequirements([name]).filter((other) => other !== name && !hasFeature(table, other));
    const reason = needed.length > 0 ? `it needs ${needed.join(', ')}` : 'another name of it is removed';
    throw new CpuFeatureError(name, `CPU feature "${name}" cannot be added: ${reason}`);
  }
}

const isSameBit = (a: FeatureBits, b: FeatureBits): boolean =>
  a.leaf === b.leaf && a.index === b.index && a.register === b.register && a.mask === b.mask;

/** The names and all that they need, directly or not. */
function withRequirements(names: readonly string[]): string[] {
  const all = new Set(names);
  for (const name of all) {
    for (const { feature, needed } of REQUIREMENTS) if (feature === name) all.add(needed);
  }
  return [...all];
}

/** Removes features whose requirements are not there, and so on until all fits. */
export function removeOrphans(table: CpuidTable): void {
  const orphans = REQUIREMENTS.filter(
    ({ feature, needed }) => hasFeature(table, feature) && !hasFeature(table, needed),
  );
  if (orphans.length === 0) return;
  for (const { feature } of orphans) removeFeature(table, feature);
  removeOrphans(table);
}
