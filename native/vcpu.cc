#include "vcpu.h"

#include <cerrno>
#include <cstring>
#include <sys/ioctl.h>

#include <vector>

#include "addon.h"
#include "arguments.h"
#include "error.h"
#include "guest_time.h"
#include "kvm_abi.h"

namespace tsvm {

namespace {

struct StateKind {
  const char* name;
  unsigned long get;
  const char* get_name;
  unsigned long set;
  const char* set_name;
  size_t size;
};

#define TSVM_STATE(name, NAME, type) \
  { name, KVM_GET_##NAME, "KVM_GET_" #NAME, KVM_SET_##NAME, "KVM_SET_" #NAME, sizeof(type) }

constexpr StateKind kStates[] = {
    TSVM_STATE("regs", REGS, kvm_regs),
    TSVM_STATE("sregs", SREGS, kvm_sregs),
    TSVM_STATE("fpu", FPU, kvm_fpu),
    TSVM_STATE("xcrs", XCRS, kvm_xcrs),
    TSVM_STATE("debugregs", DEBUGREGS, kvm_debugregs),
    TSVM_STATE("lapic", LAPIC, kvm_lapic_state),
    TSVM_STATE("mpState", MP_STATE, kvm_mp_state),
    TSVM_STATE("events", VCPU_EVENTS, kvm_vcpu_events),
    {"xsave", kGetXsave, "KVM_GET_XSAVE", kSetXsave, "KVM_SET_XSAVE", kXsaveSize},
};

#undef TSVM_STATE

const StateKind& FindState(const Napi::Value& name) {
  const std::string wanted = ToString(name, "state");
  for (const StateKind& kind : kStates) {
    if (wanted == kind.name) return kind;
  }
  throw Napi::RangeError::New(name.Env(), "there is no vCPU state called " + wanted);
}

// AMX and its like make the extended state larger than the 4 KiB of struct kvm_xsave.
size_t XsaveSize(const VmCore& core) {
  const int size = ioctl(core.fd(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  return size > static_cast<int>(kXsaveSize) ? static_cast<size_t>(size) : kXsaveSize;
}

size_t SizeOf(const StateKind& kind, const VmCore& core) {
  return kind.get == kGetXsave ? XsaveSize(core) : kind.size;
}

constexpr size_t kCpuidEntries = 256;

constexpr size_t kMsrLimit = 4096;

Bytes ToMsrIndices(const Napi::Value& value) {
  const Bytes bytes = ToBytes(value, "indices");
  if (bytes.size % 4 != 0 || bytes.size / 4 > kMsrLimit) {
    throw Napi::RangeError::New(value.Env(), "indices must be a Uint32Array of at most 4096 MSRs");
  }
  return bytes;
}

}  // namespace

void Vcpu::Define(Napi::Env env, Napi::Object exports) {
  // Made by Vm.createVcpu() alone; exported so that the type has a name.
  Napi::Function constructor = DefineClass(env, "Vcpu",
                                           {
                                               InstanceMethod("resume", &Vcpu::Resume),
                                               InstanceMethod("requestPause", &Vcpu::RequestPause),
                                               InstanceMethod("getState", &Vcpu::GetState),
                                               InstanceMethod("setState", &Vcpu::SetState),
                                               InstanceMethod("getMsrs", &Vcpu::GetMsrs),
                                               InstanceMethod("setMsrs", &Vcpu::SetMsrs),
                                               InstanceMethod("getCpuid", &Vcpu::GetCpuid),
                                               InstanceMethod("setCpuid", &Vcpu::SetCpuid),
                                               InstanceMethod("translate", &Vcpu::Translate),
                                               InstanceMethod("control", &Vcpu::Control),
                                               InstanceMethod("clockAndTsc", &Vcpu::ClockAndTsc),
                                               InstanceMethod("tscOffset", &Vcpu::TscOffset),
                                               InstanceMethod("setTscOffset", &Vcpu::SetTscOffset),
                                               InstanceMethod("exitCounts", &Vcpu::ExitCounts),
                                               InstanceAccessor("parked", &Vcpu::IsParked, nullptr),
                                           });
  AddonData::Of(env).vcpu_class = Napi::Persistent(constructor);
  exports.Set("Vcpu", constructor);
}

Napi::Object Vcpu::Create(Napi::Env env, std::shared_ptr<VmCore> core, std::shared_ptr<VcpuThread> thread) {
  Napi::Object object = AddonData::Of(env).vcpu_class.New({});
  Vcpu* vcpu = Unwrap(object);
  vcpu->core_ = std::move(core);
  vcpu->thread_ = std::move(thread);
  return object;
}

Vcpu::Vcpu(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

VcpuThread& Vcpu::Open(Napi::Env env) const {
  if (!core_ || core_->closed()) ThrowClosed(env, "vCPU");
  return *thread_;
}

int Vcpu::Parked(Napi::Env env) const {
  VcpuThread& thread = Open(env);
  if (!thread.parked()) ThrowErrno(env, EBUSY, "vcpu", "access to the state of a running vCPU");
  return thread.fd();
}

void Vcpu::Resume(const Napi::CallbackInfo& info) { Open(info.Env()).Resume(); }

void Vcpu::RequestPause(const Napi::CallbackInfo& info) { Open(info.Env()).RequestPause(); }

Napi::Value Vcpu::IsParked(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Open(info.Env()).parked());
}

Napi::Value Vcpu::GetState(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const StateKind& kind = FindState(info[0]);
  const int fd = Parked(env);
  const size_t size = SizeOf(kind, *core_);
  auto bytes = Napi::Uint8Array::New(env, size);
  if (size > kXsaveSize) {
    Ioctl(env, fd, kGetXsave2, "KVM_GET_XSAVE2", bytes.Data());
  } else {
    Ioctl(env, fd, kind.get, kind.get_name, bytes.Data());
  }
  return bytes;
}

void Vcpu::SetState(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const StateKind& kind = FindState(info[0]);
  const int fd = Parked(env);
  const Bytes bytes = ToBytes(info[1], "bytes");
  if (bytes.size != SizeOf(kind, *core_)) {
    throw Napi::RangeError::New(env, std::string(kind.name) + " has " + std::to_string(SizeOf(kind, *core_)) +
                                         " bytes, not " + std::to_string(bytes.size));
  }
  Ioctl(env, fd, kind.set, kind.set_name, bytes.data);
}

// The kernel stops at the first MSR it refuses: the result says how many were read, the caller goes on behind it.
Napi::Value Vcpu::GetMsrs(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Parked(env);
  const Bytes indices = ToMsrIndices(info[0]);
  const size_t count = indices.size / 4;
  MsrList list(count);
  for (size_t i = 0; i < count; i++) std::memcpy(&list.entries()[i].index, indices.data + 4 * i, 4);
  const int done = Ioctl(env, fd, kGetMsrs, "KVM_GET_MSRS", list.data());
  auto values = Napi::BigUint64Array::New(env, static_cast<size_t>(done));
  for (int i = 0; i < done; i++) values[static_cast<size_t>(i)] = list.entries()[i].data;
  return values;
}

Napi::Value Vcpu::SetMsrs(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Parked(env);
  const Bytes indices = ToMsrIndices(info[0]);
  const Bytes values = ToBytes(info[1], "values");
  const size_t count = indices.size / 4;
  if (values.size != count * 8) throw Napi::RangeError::New(env, "values must be a BigUint64Array, one for each index");
  MsrList list(count);
  for (size_t i = 0; i < count; i++) {
    std::memcpy(&list.entries()[i].index, indices.data + 4 * i, 4);
    std::memcpy(&list.entries()[i].data, values.data + 8 * i, 8);
  }
  return Napi::Number::New(env, Ioctl(env, fd, kSetMsrs, "KVM_SET_MSRS", list.data()));
}

Napi::Value Vcpu::GetCpuid(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Parked(env);
  CpuidList list(kCpuidEntries);
  Ioctl(env, fd, kGetCpuid2, "KVM_GET_CPUID2", list.data());
  return CopyToJs(env, list.data(), CpuidList::SizeFor(list.count()));
}

void Vcpu::SetCpuid(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Parked(env);
  const Bytes bytes = ToBytes(info[0], "cpuid");
  const size_t entries = bytes.size < kCountedHeader ? 0 : (bytes.size - kCountedHeader) / sizeof(kvm_cpuid_entry2);
  if (entries == 0 || entries > kCpuidEntries || bytes.size != CpuidList::SizeFor(entries)) {
    throw Napi::RangeError::New(env, "cpuid must be a struct kvm_cpuid2 with 1 to 256 entries");
  }
  CpuidList list(entries);
  std::memcpy(list.data(), bytes.data, bytes.size);
  list.set_count(static_cast<uint32_t>(entries));
  Ioctl(env, fd, kSetCpuid2, "KVM_SET_CPUID2", list.data());
}

// A linear address as this vCPU would translate it now, or undefined where no page maps it.
Napi::Value Vcpu::Translate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Parked(env);
  kvm_translation translation{};
  translation.linear_address = ToUint64(info[0], "address");
  Ioctl(env, fd, KVM_TRANSLATE, "KVM_TRANSLATE", &translation);
  if (!translation.valid) return env.Undefined();
  return Napi::Number::New(env, static_cast<double>(translation.physical_address));
}

// Requests without a structure of their own.
Napi::Value Vcpu::Control(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string what = ToString(info[0], "request");
  const int fd = Parked(env);
  // Like every request to a vCPU, KVM_NMI waits until KVM_RUN has returned.
  if (what == "nmi") return Napi::Number::New(env, Ioctl(env, fd, KVM_NMI, "KVM_NMI"));
  if (what == "kvmclockPaused") {
    return Napi::Number::New(env, Ioctl(env, fd, KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL"));
  }
  if (what == "tscKhz") return Napi::Number::New(env, Ioctl(env, fd, KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ"));
  if (what == "setTscKhz") {
    return Napi::Number::New(env, Ioctl(env, fd, KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", ToUint32(info[1], "kHz")));
  }
  throw Napi::RangeError::New(env, "there is no vCPU request called " + what);
}

Napi::Value Vcpu::ClockAndTsc(const Napi::CallbackInfo& info) {
  const int fd = Parked(info.Env());
  return ReadClockAndTsc(info.Env(), core_->fd(), fd);
}

Napi::Value Vcpu::TscOffset(const Napi::CallbackInfo& info) { return ReadTscOffset(info.Env(), Parked(info.Env())); }

void Vcpu::SetTscOffset(const Napi::CallbackInfo& info) {
  const int fd = Parked(info.Env());
  WriteTscOffset(info.Env(), fd, ToUint64(info[0], "offset"));
}

Napi::Value Vcpu::ExitCounts(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  // The counts outlive the VM.
  if (!thread_) ThrowClosed(env, "vCPU");
  auto counts = Napi::Float64Array::New(env, VcpuThread::kReasons);
  for (uint32_t i = 0; i < VcpuThread::kReasons; i++) counts[i] = static_cast<double>(thread_->ExitCount(i));
  return counts;
}

}  // namespace tsvm
