#include "kvm.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "arguments.h"
#include "error.h"
#include "kvm_abi.h"

namespace tsvm {

namespace {

constexpr napi_type_tag kTag = {0x8f1d5c2a94e84b61, 0xa1f06b7c3d52e908};

}  // namespace

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
  info.This().As<Napi::Object>().TypeTag(&kTag);
}

int Kvm::Open(Napi::Env env) const {
  if (!fd_) ThrowClosed(env, "KVM");
  return fd_.get();
}

int Kvm::FdOf(const Napi::Value& value) {
  return Unwrap(ToTagged(value, kTag, "kvm must be a Kvm"))->Open(value.Env());
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
  CpuidList list(256);
  Ioctl(env, Open(env), kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", list.data());
  return CopyToJs(env, list.data(), CpuidList::SizeFor(list.count()));
}

// The MSRs that KVM can save and restore.
Napi::Value Kvm::MsrIndices(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  MsrIndexList none(0);
  // Asked with room for none, the kernel answers E2BIG and the number.
  if (ioctl(Open(env), kGetMsrIndexList, none.data()) < 0 && errno != E2BIG) {
    ThrowErrno(env, errno, "ioctl", "KVM_GET_MSR_INDEX_LIST");
  }
  MsrIndexList list(none.count());
  Ioctl(env, Open(env), kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", list.data());
  auto indices = Napi::Uint32Array::New(env, list.count());
  for (uint32_t i = 0; i < list.count(); i++) indices[i] = list.entries()[i];
  return indices;
}

void Kvm::Close(const Napi::CallbackInfo&) { fd_.Reset(); }

}  // namespace tsvm
