// What the addon keeps for each JavaScript environment.
#pragma once

#include <napi.h>

#include <memory>
#include <set>

#include "reactor.h"

namespace tsvm {

class FileCalls;
class IoRing;
class VmCore;

struct AddonData {
  static AddonData& Of(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

  // src/kvm/errors.ts: constructor(errno, syscall, request)
  Napi::FunctionReference error_class;
  Napi::FunctionReference vcpu_class;
  std::shared_ptr<Reactor> reactor;
  // VMs whose threads have to end before the environment does
  std::shared_ptr<std::set<VmCore*>> vms = std::make_shared<std::set<VmCore*>>();
  // I/O rings, which have to be done with memory before it goes
  std::shared_ptr<std::set<IoRing*>> rings = std::make_shared<std::set<IoRing*>>();
  // file calls, whose threads have to end
  std::shared_ptr<std::set<FileCalls*>> file_calls = std::make_shared<std::set<FileCalls*>>();
  napi_env env = nullptr;
  napi_async_context async_context = nullptr;
  napi_async_cleanup_hook_handle cleanup = nullptr;
};

}  // namespace tsvm
