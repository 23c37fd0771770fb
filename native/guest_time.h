// The clocks that a guest compares with each other: kvmclock and the vCPUs' time stamp counters.
#pragma once

#include <napi.h>

namespace tsvm {

// What kvmclock shows and what the vCPU's TSC counts at the same moment, as a BigUint64Array of two: both run on while
// the vCPU rests, so reading one after the other is not the same.
Napi::Value ReadClockAndTsc(Napi::Env env, int vm, int vcpu);

// What KVM adds to the host's TSC for this vCPU (Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET), or
// undefined where the kernel, before Linux 5.16, does not tell.
Napi::Value ReadTscOffset(Napi::Env env, int vcpu);
void WriteTscOffset(Napi::Env env, int vcpu, uint64_t offset);

}  // namespace tsvm
