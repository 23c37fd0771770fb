// The module: what JavaScript finds in the addon. src/kvm/native.ts has the same list as types.
#include "addon.h"

#include "event_fd.h"
#include "file_calls.h"
#include "frame_port.h"
#include "host_file.h"
#include "io_ring.h"
#include "jail.h"
#include "kvm.h"
#include "memory.h"
#include "memory_image.h"
#include "tap.h"
#include "unix_socket.h"
#include "vcpu.h"
#include "vm.h"
#include "vm_core.h"

namespace tsvm {

namespace {

// An environment ends (process exit, worker termination): threads first, then the loop's handle.
void CleanUp(napi_async_cleanup_hook_handle handle, void* argument) {
  auto* data = static_cast<AddonData*>(argument);
  for (VmCore* vm : *data->vms) vm->Close();
  data->vms->clear();
  while (!data->rings->empty()) (*data->rings->begin())->Shutdown();
  while (!data->file_calls->empty()) (*data->file_calls->begin())->Shutdown();
  napi_async_destroy(data->env, data->async_context);
  data->reactor->Close([](void* hook) {
    napi_remove_async_cleanup_hook(static_cast<napi_async_cleanup_hook_handle>(hook));
  }, handle);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData;
  env.SetInstanceData(data);
  exports.Set("initialize", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                AddonData& data = AddonData::Of(info.Env());
                if (data.reactor) return;
                data.error_class = Napi::Persistent(info[0].As<Napi::Function>());
                data.env = info.Env();
                data.reactor = std::make_shared<Reactor>(info.Env());
                napi_async_init(info.Env(), nullptr, Napi::String::New(info.Env(), "tsvm"), &data.async_context);
                napi_add_async_cleanup_hook(info.Env(), CleanUp, &data, &data.cleanup);
              }));
  EventFd::Define(env, exports);
  Timer::Define(env, exports);
  Memory::Define(env, exports);
  MemoryImage::Define(env, exports);
  IoRing::Define(env, exports);
  FileCalls::Define(env, exports);
  DefineHostFile(env, exports);
  FramePort::Define(env, exports);
  UnixListener::Define(env, exports);
  DefineUnixSocket(env, exports);
  DefineTap(env, exports);
  DefineJail(env, exports);
  Kvm::Define(env, exports);
  Vm::Define(env, exports);
  Vcpu::Define(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(tsvm, Init)

}  // namespace tsvm
