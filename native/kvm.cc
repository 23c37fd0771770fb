#include "kvm.h"

#include <cerrno>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <vector>

#include "arguments.h"
#include "error.h"

namespace tsvm {

void Kvm::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("Kvm", DefineClass(env, "Kvm",
                                 {
                                     InstanceMethod("apiVersion", &Kvm::ApiVersion),
                                     InstanceMethod("checkExtension", &Kvm::CheckExtension),
                                     InstanceMethod("supportedCpuid", &Kvm::SupportedCpuid),
                                     InstanceMethod("msrIndices", &Kvm::MsrIndices),
                                     InstanceMethod("close", &Kvm::Close),
                                 }));
}

Kvm::Kvm(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const std::string path = ToString(info[0], "path");
  fd_ = Fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd_) ThrowErrno(info.Env(), errno, "open", path.c_str());
}

int Kvm::Open(Napi::Env env) const {
  if (!fd_) ThrowClosed(env, "KVM");
  return fd_.get();
}

int Kvm::FdOf(const Napi::Value& value) {
  if (!value.IsObject()) throw Napi::TypeError::New(value.Env(), "kvm must be a Kvm");
  return Unwrap(value.As<Napi::Object>())->Open(value.Env());
}

Napi::Value Kvm::ApiVersion(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return Napi::Number::New(env, Ioctl(env, Open(env), KVM_GET_API_VERSION, "KVM_GET_API_VERSION"));
}

Napi::Value Kvm::CheckExtension(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const uint32_t extension = ToUint32(info[0], "extension");
  return Napi::Number::New(env, Ioctl(env, Open(env), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", extension));
}

Napi::Value Kvm::SupportedCpuid(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  constexpr uint32_t kEntries = 256;
  std::vector<uint64_t> words((sizeof(kvm_cpuid2) + kEntries * sizeof(kvm_cpuid_entry2)) / 8);
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(words.data());
  cpuid->nent = kEntries;
  Ioctl(env, Open(env), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", cpuid);
  return CopyToJs(env, cpuid, sizeof(kvm_cpuid2) + cpuid->nent * sizeof(kvm_cpuid_entry2));
}

// The MSRs that KVM can save and restore.
Napi::Value Kvm::MsrIndices(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  kvm_msr_list none{};
  // Asked with room for none, the kernel answers E2BIG and the number.
  if (ioctl(Open(env), KVM_GET_MSR_INDEX_LIST, &none) < 0 && errno != E2BIG) {
    ThrowErrno(env, errno, "ioctl", "KVM_GET_MSR_INDEX_LIST");
  }
  std::vector<uint32_t> words(1 + none.nmsrs);
  auto* list = reinterpret_cast<kvm_msr_list*>(words.data());
  list->nmsrs = none.nmsrs;
  Ioctl(env, Open(env), KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", list);
  auto indices = Napi::Uint32Array::New(env, list->nmsrs);
  for (uint32_t i = 0; i < list->nmsrs; i++) indices[i] = list->indices[i];
  return indices;
}

void Kvm::Close(const Napi::CallbackInfo&) { fd_.Reset(); }

}  // namespace tsvm
