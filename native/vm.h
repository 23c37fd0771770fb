// A VM as JavaScript holds it. While a vCPU runs, the object and the event loop are kept alive, as a server's
// listening socket does; a VM that is at rest may be dropped and is collected with all it holds.
#pragma once

#include <napi.h>

#include <memory>

#include "addon.h"
#include "reactor.h"
#include "vm_core.h"

namespace tsvm {

class Vm : public Napi::ObjectWrap<Vm>, public Watcher {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit Vm(const Napi::CallbackInfo& info);
  ~Vm() override;
  void OnReadable(Napi::Env env) override;

 private:
  Napi::Value CheckExtension(const Napi::CallbackInfo& info);
  void EnableCapability(const Napi::CallbackInfo& info);
  void Setup(const Napi::CallbackInfo& info);
  void SetMemory(const Napi::CallbackInfo& info);
  Napi::Value DirtyLog(const Napi::CallbackInfo& info);
  void Irqfd(const Napi::CallbackInfo& info);
  void Ioeventfd(const Napi::CallbackInfo& info);
  void IrqLine(const Napi::CallbackInfo& info);
  void SetRouting(const Napi::CallbackInfo& info);
  Napi::Value SignalMsi(const Napi::CallbackInfo& info);
  Napi::Value GetState(const Napi::CallbackInfo& info);
  void SetState(const Napi::CallbackInfo& info);
  Napi::Value AddRegion(const Napi::CallbackInfo& info);
  void RemoveRegion(const Napi::CallbackInfo& info);
  Napi::Value Index(const Napi::CallbackInfo& info);
  Napi::Value Counter(const Napi::CallbackInfo& info);
  void Lease(const Napi::CallbackInfo& info);
  Napi::Value Counters(const Napi::CallbackInfo& info);
  Napi::Value CreateVcpu(const Napi::CallbackInfo& info);
  Napi::Value PostedBuffer(const Napi::CallbackInfo& info);
  void SetActive(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  void CloseCore();
  void Activate(bool active);
  int Open(Napi::Env env) const;
  std::shared_ptr<Region> RegionOf(const Napi::Value& id) const;

  std::shared_ptr<VmCore> core_;
  std::shared_ptr<Reactor> reactor_;
  // shared with AddonData, which may go before the last VM is finalized
  std::shared_ptr<std::set<VmCore*>> all_;
  std::shared_ptr<std::vector<PostedAccess>> posted_;
  uint32_t next_region_ = 0;
  bool active_ = false;
};

// As JavaScript calls it: pio, mmio or indexed.
Space ToSpace(const Napi::Value& value);

}  // namespace tsvm
