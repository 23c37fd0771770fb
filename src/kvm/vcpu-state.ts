/** All that a vCPU is made of, as plain data: what a snapshot has of it. */
import * as v from 'valibot';
import { decodeCpuid, type CpuidEntry } from './cpuid-entry.ts';
import { checkState, DeviceStateError, unsigned } from './device-state.ts';
import { encodeBytes, encoded } from './encoded.ts';
import { MSR_TSC, MSR_TSC_DEADLINE } from './guest-time.ts';
import type { VcpuStateName } from './native.ts';
import type { Vcpu } from './vcpu.ts';

/** KVM's structures in the order in which they are restored: each may depend on those before it. */
const BEFORE_MSRS = ['sregs', 'regs', 'xcrs', 'xsave', 'debugregs', 'lapic'] as const;
const AFTER_MSRS = ['events', 'mpState'] as const;
type Saved = (typeof BEFORE_MSRS)[number] | (typeof AFTER_MSRS)[number];

const structure = encoded(64 * 1024);
const schema = v.strictObject({
  /** struct kvm_cpuid2 */
  cpuid: structure,
  /** of the guest's TSC, where KVM knows it */
  tscKhz: v.optional(unsigned(0xffff_ffff)),
  sregs: structure,
  regs: structure,
  xcrs: structure,
  xsave: structure,
  debugregs: structure,
  lapic: structure,
  events: structure,
  mpState: structure,
  /** pairs of number and value, in hexadecimal */
  msrs: v.pipe(
    v.array(
      v.strictTuple([
        unsigned(0xffff_ffff),
        v.pipe(
          v.string(),
          v.regex(/^[0-9a-f]{1,16}$/, 'no 64 bits in hexadecimal'),
          v.transform((text) => BigInt(`0x${text}`)),
        ),
      ]),
    ),
    v.maxLength(4096),
  ),
} satisfies Record<Saved, v.GenericSchema> & Record<string, v.GenericSchema>);

/** Checked. */
export type VcpuState = v.InferOutput<typeof schema>;
/** As it is in a file. */
export type EncodedVcpuState = v.InferInput<typeof schema>;

/**
 * @param msrs what KVM can save: those that it refuses are left out
 * @param tsc as of the moment that all clocks are saved of
 */
export function saveVcpu(vcpu: Vcpu, msrs: readonly number[], tsc: bigint): EncodedVcpuState {
  const { values } = vcpu.msrs(msrs);
  if (values.has(MSR_TSC)) values.set(MSR_TSC, tsc);
  const tscKhz = vcpu.tscKhz();
  const bytes = (name: VcpuStateName): string => encodeBytes(vcpu.state(name));
  return {
    cpuid: encodeBytes(vcpu.encodedCpuid),
    ...(tscKhz !== undefined && { tscKhz }),
    sregs: bytes('sregs'),
    regs: bytes('regs'),
    xcrs: bytes('xcrs'),
    xsave: bytes('xsave'),
    debugregs: bytes('debugregs'),
    lapic: bytes('lapic'),
    events: bytes('events'),
    mpState: bytes('mpState'),
    msrs: [...values].map(([index, value]) => [index, value.toString(16)]),
  };
}

/** @throws DeviceStateError where it has not the form of a vCPU's state */
export function checkVcpuState(index: number, data: unknown): VcpuState {
  return checkState(`vCPU ${index}`, schema, data);
}

/** The vCPU's CPUID leaves. @throws DeviceStateError */
export function cpuidOf(index: number, { cpuid }: VcpuState): CpuidEntry[] {
  try {
    return decodeCpuid(cpuid);
  } catch {
    throw new DeviceStateError(`state of vCPU ${index}, cpuid: not a table of leaves`);
  }
}

/**
 * Into a vCPU that was made and not used. What counts time is left to `restoreClock`.
 * @throws DeviceStateError where KVM of this host does not take it
 */
export function restoreVcpu(vcpu: Vcpu, state: VcpuState): void {
  const refused = (what: string, error: unknown): never => {
    const reason = error instanceof Error ? error.message : String(error);
    throw new DeviceStateError(
      `state of vCPU ${vcpu.index}, ${what}: KVM of this host refuses it: ${reason}`,
    );
  };
  const set = (name: Saved): void => {
    try {
      vcpu.setState(name, state[name]);
    } catch (error) {
      refused(name, error);
    }
  };
  try {
    vcpu.setEncodedCpuid(state.cpuid);
    const { tscKhz } = state;
    if (tscKhz !== undefined && tscKhz !== vcpu.tscKhz()) vcpu.native.control('setTscKhz', tscKhz);
  } catch (error) {
    refused('cpuid', error);
  }
  BEFORE_MSRS.forEach(set);
  writeMsrs(vcpu, new Map(state.msrs.filter(([index]) => index !== MSR_TSC && index !== MSR_TSC_DEADLINE)));
  AFTER_MSRS.forEach(set);
}

/** What the TSC was; 0 where KVM did not say. */
export function tscOf({ msrs }: VcpuState): bigint {
  return new Map(msrs).get(MSR_TSC) ?? 0n;
}

/**
 * One that counts time. A deadline sets its timer by the TSC of the moment, and by the mode that the local APIC's timer
 * is in.
 * @throws DeviceStateError
 */
export function restoreClock(
  vcpu: Vcpu,
  { msrs }: VcpuState,
  clock: typeof MSR_TSC | typeof MSR_TSC_DEADLINE,
): void {
  writeMsrs(vcpu, new Map(msrs.filter(([index]) => index === clock)));
}

/** @throws DeviceStateError */
function writeMsrs(vcpu: Vcpu, values: ReadonlyMap<number, bigint>): void {
  const refused = vcpu.setMsrs(values);
  if (refused.length === 0) return;
  // Some cannot be written at all; they matter only where they are not what they were.
  const now = vcpu.msrs(refused).values;
  const lost = refused.filter((index) => now.get(index) !== values.get(index));
  if (lost.length > 0) {
    const numbers = lost.map((index) => `0x${index.toString(16)}`).join(', ');
    throw new DeviceStateError(`state of vCPU ${vcpu.index}: KVM of this host refuses the MSRs ${numbers}`);
  }
}
