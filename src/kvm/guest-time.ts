/**
 * The clocks that a guest compares with each other. Linux watches its TSC by kvmclock and gives the TSC up for good
 * when the two differ by more than a quarter of a millisecond (kernel/time/clocksource.c): they must be saved as of one
 * moment, and start as of one.
 */
import type { KvmVm } from './vm.ts';
import type { Vcpu } from './vcpu.ts';

/** IA32_TSC, and IA32_TSC_DEADLINE, which goes by it */
export const MSR_TSC = 0x10;
export const MSR_TSC_DEADLINE = 0x6e0;

export type GuestTime = {
  /** what kvmclock shows, in nanoseconds */
  readonly clock: bigint;
  /** by vCPU */
  readonly tscs: readonly bigint[];
};

/** All vCPUs rest. @throws KvmError */
export function readTime({ vcpus }: KvmVm): GuestTime {
  const first = vcpus[0]!;
  const [clock, tsc] = clockAndTsc(first);
  const base = first.native.tscOffset();
  return {
    clock,
    tscs: vcpus.map((vcpu, index) => {
      if (index === 0) return tsc;
      // TSCs that were in step stay so to the cycle.
      if (base !== undefined) return BigInt.asUintN(64, tsc + vcpu.native.tscOffset()! - base);
      const [then, value] = clockAndTsc(vcpu);
      return BigInt.asUintN(64, value - cyclesIn(vcpu, then - clock));
    }),
  };
}

/**
 * TSCs that were written just before the clock are put where they were beside it. Where the kernel does not tell their
 * offsets (before Linux 5.16) they stay as they are: KVM takes a value that is written once more for an attempt to bring
 * vCPUs into step.
 * @throws KvmError
 */
export function alignTscs({ vcpus }: KvmVm, { clock, tscs }: GuestTime): void {
  const first = vcpus[0]!;
  const base = first.native.tscOffset();
  if (base === undefined) return;
  const [now, is] = clockAndTsc(first);
  const wanted = tscs[0]! + cyclesIn(first, now - clock);
  vcpus.forEach((vcpu, index) => {
    const offset = base + wanted - is + (tscs[index]! - tscs[0]!);
    vcpu.native.setTscOffset(BigInt.asUintN(64, offset));
  });
}

function clockAndTsc(vcpu: Vcpu): [clock: bigint, tsc: bigint] {
  const [clock, tsc] = vcpu.native.clockAndTsc();
  return [clock!, tsc!];
}

/** 10^6 nanoseconds are as many cycles as there are kHz. */
function cyclesIn(vcpu: Vcpu, nanoseconds: bigint): bigint {
  return (nanoseconds * BigInt(vcpu.tscKhz() ?? 0)) / 1_000_000n;
}
