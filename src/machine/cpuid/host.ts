/** Whether a guest that has seen one processor can go on, on a host that may have another one. */
import { DeviceStateError } from '../../kvm/device-state.ts';
import type { CpuidEntry } from '../../kvm/cpuid-entry.ts';
import type { Kvm } from '../../kvm/system.ts';
import { cpuidOf, type VcpuState } from '../../kvm/vcpu-state.ts';
import { FEATURES, type FeatureBits } from './feature-names.ts';
import { CpuidTable, vendorOf } from './table.ts';

/** KVM has these though they are not among the leaves that it supports. */
const NOT_LISTED = new Set(['hypervisor', 'tsc_deadline_timer', 'apic', 'ht', 'cmp_legacy', 'osxsave']);

const WANTED = [...FEATURES].filter(([name]) => !NOT_LISTED.has(name));
/** The same by register, some 30 instead of 300: a guest that is restored waits for this. */
const REGISTERS: readonly FeatureBits[] = join(WANTED.flatMap(([, places]) => places));

function join(all: readonly FeatureBits[]): FeatureBits[] {
  const registers = new Map<string, FeatureBits>();
  for (const bits of all) {
    const key = `${bits.leaf} ${bits.index} ${bits.register}`;
    registers.set(key, { ...bits, mask: bits.mask | (registers.get(key)?.mask ?? 0) });
  }
  return [...registers.values()];
}

/** Names of features that the guest's processor has and this one has not; `vendor` is one where that differs. */
export function missingFeatures(guest: readonly CpuidEntry[], supported: readonly CpuidEntry[]): string[] {
  const theirs = new CpuidTable(guest);
  const ours = new CpuidTable(supported);
  const isMissing = ({ leaf, index, register, mask }: FeatureBits): boolean => {
    const wanted = theirs.find(leaf, index)?.[register] ?? 0;
    const there = ours.find(leaf, index)?.[register] ?? 0;
    return (wanted & mask & ~there) !== 0;
  };
  const missing = REGISTERS.some(isMissing)
    ? WANTED.filter(([, places]) => places.some(isMissing)).map(([name]) => name)
    : [];
  return vendorOf(theirs) === vendorOf(ours) ? missing : ['vendor', ...missing];
}

/** @throws DeviceStateError naming all that this host's processor lacks */
export function requireHost(kvm: Kvm, vcpus: readonly VcpuState[]): void {
  const [first] = vcpus;
  if (first === undefined) return;
  const missing = missingFeatures(cpuidOf(0, first), kvm.supportedCpuid());
  if (missing.length > 0)
    throw new DeviceStateError(
      `the guest uses what this host's processor has not got: ${missing.join(', ')}`,
    );
}
