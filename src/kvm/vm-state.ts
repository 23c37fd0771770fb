/** Interrupt controllers, PC timer and clock of a VM, as plain data: what a snapshot has of them. */
import * as v from 'valibot';
import { checkState, DeviceStateError } from './device-state.ts';
import { encodeBytes, encoded } from './encoded.ts';
import { alignTscs, MSR_TSC, MSR_TSC_DEADLINE } from './guest-time.ts';
import type { VmStateName } from './native.ts';
import { restoreClock, tscOf, type VcpuState } from './vcpu-state.ts';
import type { KvmVm } from './vm.ts';

/** both PICs and the IOAPIC */
const CHIPS = [0, 1, 2] as const;
/** struct kvm_clock_data: the clock in nanoseconds is the first of its six words */
const CLOCK_SIZE = 48;
/** in struct kvm_irqchip the chip's number is the first word */
const CHIP_NUMBER = 0;

const structure = encoded(4096);
const schema = v.strictObject({
  irqchips: v.strictTuple([structure, structure, structure]),
  pit: structure,
  /** what kvmclock shows, in nanoseconds, as text */
  clock: v.pipe(
    v.string(),
    v.regex(/^\d{1,19}$/, 'no time in nanoseconds'),
    v.transform((text) => BigInt(text)),
  ),
});

export type VmState = v.InferOutput<typeof schema>;
export type EncodedVmState = v.InferInput<typeof schema>;

/** All vCPUs rest. @param clock what kvmclock shows @throws KvmError */
export function saveVm(vm: KvmVm, clock: bigint): EncodedVmState {
  const [master, slave, ioapic] = CHIPS.map((chip) => encodeBytes(vm.native.getState('irqchip', chip)));
  return {
    irqchips: [master!, slave!, ioapic!],
    pit: encodeBytes(vm.native.getState('pit2')),
    clock: String(clock),
  };
}

/** @throws DeviceStateError */
export function checkVmState(data: unknown): VmState {
  return checkState('the VM', schema, data);
}

/** Before its devices raise lines. @throws DeviceStateError */
export function restoreChips(vm: KvmVm, { irqchips, pit }: VmState): void {
  irqchips.forEach((bytes, chip) => {
    if (bytes[CHIP_NUMBER] !== chip)
      throw new DeviceStateError(`state of the VM, irqchips.${chip}: another interrupt controller`);
    set(vm, 'irqchip', bytes);
  });
  set(vm, 'pit2', pit);
}

/** The guest's clocks go on from where they were, with vCPUs that are restored. The last thing before they run. */
export function restoreClocks(
  vm: KvmVm,
  { clock }: Pick<VmState, 'clock'>,
  vcpus: readonly VcpuState[],
): void {
  const bytes = new Uint8Array(CLOCK_SIZE);
  new DataView(bytes.buffer).setBigUint64(0, clock, true);
  vm.vcpus.forEach((vcpu, index) => restoreClock(vcpu, vcpus[index]!, MSR_TSC));
  set(vm, 'clock', bytes);
  alignTscs(vm, { clock, tscs: vcpus.map(tscOf) });
  vm.vcpus.forEach((vcpu, index) => restoreClock(vcpu, vcpus[index]!, MSR_TSC_DEADLINE));
}

function set(vm: KvmVm, name: VmStateName, bytes: Uint8Array): void {
  try {
    vm.native.setState(name, bytes);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new DeviceStateError(`state of the VM, ${name}: KVM of this host refuses it: ${reason}`);
  }
}
