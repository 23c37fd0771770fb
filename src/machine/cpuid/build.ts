/** What CPUID tells the guest: KVM's supported leaves, with the VM's own topology and the features asked for. */

import { MAX_VCPUS } from '../../boot/layout.ts';
import type { CpuidEntry } from '../../kvm/cpuid-entry.ts';
import { setCacheSharing } from './caches.ts';
import { settleDependentLeaves } from './dependent-leaves.ts';
import { applyFeatures, parseFeatureSpec } from './features.ts';
import { setFrequencies } from './frequency.ts';
import { CpuidTable, withBits } from './table.ts';
import { setTopology } from './topology.ts';

export { CpuFeatureError } from './features.ts';

export type CpuidOptions = {
  /** KVM_GET_SUPPORTED_CPUID */
  readonly supported: readonly CpuidEntry[];
  /** number of vCPUs, 1 to {@link MAX_VCPUS} */
  readonly vcpus: number;
  /** the vCPU that the table is for, from 0 on; also its APIC id */
  readonly index: number;
  /** KVM_CAP_TSC_DEADLINE_TIMER: KVM has it, though not among its supported leaves */
  readonly tscDeadline: boolean;
  /** frequency of the guest's TSC in kHz (KVM_GET_TSC_KHZ), where it is known */
  readonly tscKhz?: number;
  /**
   * Features added and removed, `+avx2,-rdrand`, named as Linux names them in /proc/cpuinfo. The guest has all that
   * KVM supports but SGX and memory encryption and, unless added, performance counters (`+arch_perfmon` on Intel,
   * `+perfctr_core` on AMD) and the invariant TSC on AMD (`+constant_tsc`).
   */
  readonly features?: string;
};

const TSC_DEADLINE = 24;
const HYPERVISOR = 31;

/**
 * The entries for KVM_SET_CPUID2 of one vCPU, by function and index.
 * @throws CpuFeatureError where the features cannot be had, RangeError for numbers out of range
 */
export function buildCpuid(options: CpuidOptions): CpuidEntry[] {
  const { supported, vcpus, index, tscDeadline, tscKhz, features = '' } = options;
  if (!(Number.isInteger(vcpus) && vcpus >= 1 && vcpus <= MAX_VCPUS)) {
    throw new RangeError(`CPUID: 1 to ${MAX_VCPUS} vCPUs, not ${vcpus}`);
  }
  if (!(Number.isInteger(index) && index >= 0 && index < vcpus))
    throw new RangeError(`CPUID: no vCPU ${index}`);
  if (tscKhz !== undefined && !(Number.isInteger(tscKhz) && tscKhz > 0 && tscKhz < 2 ** 32)) {
    throw new RangeError(`CPUID: ${tscKhz} is no TSC frequency in kHz`);
  }
  const table = new CpuidTable(supported);
  const first = table.find(1);
  if (table.find(0) === undefined || first === undefined)
    throw new RangeError('CPUID: KVM supports no leaf 0 and 1');

  first.ecx = withBits(first.ecx, HYPERVISOR, HYPERVISOR, 1);
  // Newer kernels report the deadline timer themselves; it needs the in-kernel APIC either way.
  if (tscDeadline) first.ecx = withBits(first.ecx, TSC_DEADLINE, TSC_DEADLINE, 1);

  // Once before, so that the spec cannot add what lacks its state; once after, for what it took away.
  settleDependentLeaves(table);
  applyFeatures(table, parseFeatureSpec(features));
  settleDependentLeaves(table);
  setTopology(table, { vcpus, index });
  setCacheSharing(table, vcpus);
  setFrequencies(table, tscKhz);
  return table.entries();
}
