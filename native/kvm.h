// /dev/kvm itself.
#pragma once

#include <napi.h>

#include "fd.h"

namespace tsvm {

class Kvm : public Napi::ObjectWrap<Kvm> {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit Kvm(const Napi::CallbackInfo& info);

  // The descriptor of the Kvm object in `value`.
  static int FdOf(const Napi::Value& value);

 private:
  int Open(Napi::Env env) const;
  Napi::Value ApiVersion(const Napi::CallbackInfo& info);
  Napi::Value CheckExtension(const Napi::CallbackInfo& info);
  Napi::Value SupportedCpuid(const Napi::CallbackInfo& info);
  Napi::Value MsrIndices(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  Fd fd_;
};

}  // namespace tsvm
