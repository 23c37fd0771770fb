import { KvmVm } from '../../src/kvm/vm.ts';
import { GuestRam } from '../../src/kvm/memory.ts';
import { openKvm } from '../../src/kvm/system.ts';
import type { Vcpu, VcpuExit } from '../../src/kvm/vcpu.ts';
import { KVM_IDENTITY_MAP, KVM_TSS } from '../../src/boot/layout.ts';

export type TinyVm = { vm: KvmVm; ram: GuestRam; vcpu: Vcpu; run(): Promise<VcpuExit> };

/** Where the code of a tiny VM starts, in real mode with all segments at 0. */
export const CODE = 0x1000;

/** A VM with one vCPU in real mode that runs `code` at {@link CODE}; HLT ends it, there is no interrupt controller. */
export function tinyVm(code: readonly number[], memory = 2 ** 20): TinyVm {
  const kvm = openKvm();
  const vm = new KvmVm(kvm, { identityMapAddress: KVM_IDENTITY_MAP, tssAddress: KVM_TSS, irqchip: false });
  kvm.close();
  const ram = new GuestRam({ ranges: [{ base: 0, size: memory }] });
  vm.mapRam(ram);
  ram.memory.write(CODE, Uint8Array.from(code));
  const vcpu = vm.createVcpu();
  startRealMode(vcpu, CODE);
  const run = (): Promise<VcpuExit> =>
    new Promise((resolve) => {
      vm.onExit = resolve;
      vm.resume();
    });
  return { vm, ram, vcpu, run };
}

export function startRealMode(vcpu: Vcpu, address: number): void {
  const sregs = vcpu.sregs();
  sregs.cs = { ...sregs.cs, base: 0n, selector: 0 };
  vcpu.setSregs(sregs);
  vcpu.setRegs({ ...vcpu.regs(), rip: BigInt(address), rflags: 2n, rsp: 0x8000n });
}
