// A vCPU as JavaScript holds it: run control and register state. State is passed as the bytes of the kernel's
// structures; src/kvm/registers.ts gives them names.
#pragma once

#include <napi.h>

#include <memory>

#include "vcpu_thread.h"
#include "vm_core.h"

namespace tsvm {

class Vcpu : public Napi::ObjectWrap<Vcpu> {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  static Napi::Object Create(Napi::Env env, std::shared_ptr<VmCore> core, std::shared_ptr<VcpuThread> thread);
  explicit Vcpu(const Napi::CallbackInfo& info);

 private:
  void Resume(const Napi::CallbackInfo& info);
  void RequestPause(const Napi::CallbackInfo& info);
  Napi::Value GetState(const Napi::CallbackInfo& info);
  void SetState(const Napi::CallbackInfo& info);
  Napi::Value GetMsrs(const Napi::CallbackInfo& info);
  Napi::Value SetMsrs(const Napi::CallbackInfo& info);
  Napi::Value GetCpuid(const Napi::CallbackInfo& info);
  void SetCpuid(const Napi::CallbackInfo& info);
  Napi::Value Translate(const Napi::CallbackInfo& info);
  Napi::Value Control(const Napi::CallbackInfo& info);
  Napi::Value ClockAndTsc(const Napi::CallbackInfo& info);
  Napi::Value TscOffset(const Napi::CallbackInfo& info);
  void SetTscOffset(const Napi::CallbackInfo& info);
  Napi::Value ExitCounts(const Napi::CallbackInfo& info);
  Napi::Value IsParked(const Napi::CallbackInfo& info);

  // The thread, unless the VM is closed.
  VcpuThread& Open(Napi::Env env) const;
  // The vCPU's descriptor, which only a parked vCPU answers on; EBUSY otherwise.
  int Parked(Napi::Env env) const;

  std::shared_ptr<VmCore> core_;
  std::shared_ptr<VcpuThread> thread_;
};

}  // namespace tsvm
