#include "guest_time.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <time.h>

#include <cerrno>

#include "error.h"
#include "kvm_abi.h"

namespace tsvm {
namespace {

constexpr uint32_t kMsrTsc = 0x10;
// The host may take the processor away between two calls; the shortest of so many tries has seen none of that.
constexpr int kTries = 16;

// KVM_VCPU_TSC_CTRL and KVM_VCPU_TSC_OFFSET, which the kernel headers of Ubuntu 22.04 have not got yet
constexpr uint32_t kTscGroup = 0;
constexpr uint64_t kTscOffset = 0;

uint64_t Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

kvm_device_attr TscOffset(uint64_t* value) {
  kvm_device_attr attribute{};
  attribute.group = kTscGroup;
  attribute.attr = kTscOffset;
  attribute.addr = reinterpret_cast<uint64_t>(value);
  return attribute;
}

}  // namespace

Napi::Value ReadClockAndTsc(Napi::Env env, int vm, int vcpu) {
  auto result = Napi::BigUint64Array::New(env, 2);
  uint64_t shortest = UINT64_MAX;
  for (int i = 0; i < kTries; i++) {
    kvm_clock_data clock{};
    MsrList list(1);
    list.entries()[0].index = kMsrTsc;
    const uint64_t start = Now();
    Ioctl(env, vm, KVM_GET_CLOCK, "KVM_GET_CLOCK", &clock);
    if (Ioctl(env, vcpu, kGetMsrs, "KVM_GET_MSRS", list.data()) != 1) ThrowErrno(env, EINVAL, "ioctl", "KVM_GET_MSRS");
    const uint64_t took = Now() - start;
    if (took >= shortest) continue;
    shortest = took;
    result[0] = clock.clock;
    result[1] = list.entries()[0].data;
  }
  return result;
}

Napi::Value ReadTscOffset(Napi::Env env, int vcpu) {
  uint64_t offset = 0;
  kvm_device_attr attribute = TscOffset(&offset);
  if (ioctl(vcpu, KVM_HAS_DEVICE_ATTR, &attribute) != 0) return env.Undefined();
  Ioctl(env, vcpu, KVM_GET_DEVICE_ATTR, "KVM_GET_DEVICE_ATTR", &attribute);
  return Napi::BigInt::New(env, offset);
}

void WriteTscOffset(Napi::Env env, int vcpu, uint64_t offset) {
  kvm_device_attr attribute = TscOffset(&offset);
  Ioctl(env, vcpu, KVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR", &attribute);
}

}  // namespace tsvm
