import { KVM_IDENTITY_MAP, KVM_TSS } from '../../src/boot/layout.ts';
import { openKvm } from '../../src/kvm/system.ts';
import { KvmVm } from '../../src/kvm/vm.ts';

/** Ticks of the guests' time stamp counter in a millisecond: not every VMM and host lets the guest know by CPUID. */
export function tscKhz(): number | undefined {
  const kvm = openKvm();
  const vm = new KvmVm(kvm, { identityMapAddress: KVM_IDENTITY_MAP, tssAddress: KVM_TSS });
  try {
    return vm.createVcpu().tscKhz();
  } finally {
    vm.close();
    kvm.close();
  }
}
