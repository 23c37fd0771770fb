/** kvmclock and TSCs are saved as of one moment and go on as of one: Linux looks at both. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { readTime, type GuestTime } from '../../src/kvm/guest-time.ts';
import { openKvm, type Kvm } from '../../src/kvm/system.ts';
import { checkVcpuState, restoreVcpu, saveVcpu } from '../../src/kvm/vcpu-state.ts';
import { restoreClocks } from '../../src/kvm/vm-state.ts';
import { longModeVm, type LongModeVm } from '../support/long-mode.ts';

const HLT = 0xf4;
/** What Linux allows its clocks to differ by in one interval, in nanoseconds: WATCHDOG_MAX_SKEW, twice. */
const ALLOWED_SKEW = 250_000;

let msrs: number[];
const guests: LongModeVm[] = [];

beforeAll(() => {
  const kvm: Kvm = openKvm();
  msrs = [...kvm.msrIndices()];
  kvm.close();
});
afterEach(() => {
  for (const { vm, ram } of guests.splice(0)) {
    vm.close();
    ram.close();
  }
});

function guestOf(cpus: number): LongModeVm {
  const guest = longModeVm([HLT], { irqchip: true });
  guests.push(guest);
  while (guest.vm.vcpus.length < cpus) guest.vm.createVcpu().setEncodedCpuid(guest.vcpu.encodedCpuid);
  return guest;
}

/** By how much the TSC has left the clock between two moments, in nanoseconds, for each vCPU. */
function skews(from: GuestTime, to: GuestTime, khz: number): number[] {
  return to.tscs.map((tsc, index) => {
    const byTsc = (Number(tsc - from.tscs[index]!) * 1e6) / khz;
    return Math.abs(byTsc - Number(to.clock - from.clock));
  });
}

/** Some KVMs have every guest see the host's TSC. */
function ownTsc(): boolean {
  const { vcpu } = guestOf(1);
  const offset = vcpu.native.tscOffset();
  if (offset === undefined) return true;
  const other = BigInt.asUintN(64, offset - 2n ** 40n);
  vcpu.native.setTscOffset(other);
  return vcpu.native.tscOffset() === other;
}

test.for([1, 4])(
  '%d vCPUs go on in step with the clock, however long restoring takes',
  async (cpus, { skip }) => {
    skip(!ownTsc(), 'this KVM has every guest see the TSC of the host');
    const { vm } = guestOf(cpus);
    const khz = vm.vcpus[0]!.tscKhz()!;
    await sleep(50);
    const saved = readTime(vm);
    const vcpuStates = vm.vcpus.map((vcpu, index) =>
      checkVcpuState(index, saveVcpu(vcpu, msrs, saved.tscs[index]!)),
    );
    await sleep(100);
    expect(Math.max(...skews(saved, readTime(vm), khz))).toBeLessThan(ALLOWED_SKEW);

    const other = guestOf(cpus).vm;
    other.vcpus.forEach((vcpu, index) => restoreVcpu(vcpu, vcpuStates[index]!));
    await sleep(100);
    restoreClocks(other, saved, vcpuStates);
    const now = readTime(other);
    expect(Number(now.clock - saved.clock)).toBeGreaterThan(0);
    expect(Number(now.clock - saved.clock)).toBeLessThan(100e6);
    expect(Math.max(...skews(saved, now, khz))).toBeLessThan(ALLOWED_SKEW);
    expect(new Set(now.tscs.map((tsc, index) => tsc - saved.tscs[index]!)).size).toBe(1);
  },
);
