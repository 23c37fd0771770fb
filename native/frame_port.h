// A frame port with its JavaScript face: batches of frames between memory and one descriptor, a native call a batch.
// JavaScript describes them in the shared area and watches for readiness; no byte of a frame passes through it.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "frame_area.h"
#include "frame_memory.h"
#include "frame_sink.h"
#include "frame_wire.h"
#include "reactor.h"

namespace tsvm {

class FramePort : public Napi::ObjectWrap<FramePort>, public Watcher {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit FramePort(const Napi::CallbackInfo& info);
  ~FramePort() override;
  void OnReadable(Napi::Env env) override;
  void OnReady(Napi::Env env, uint32_t events) override;

 private:
  Napi::Value Area(const Napi::CallbackInfo& info);
  Napi::Value Staging(const Napi::CallbackInfo& info);
  Napi::Value GetFd(const Napi::CallbackInfo& info);
  Napi::Value Register(const Napi::CallbackInfo& info);
  void Unregister(const Napi::CallbackInfo& info);
  void Open(const Napi::CallbackInfo& info);
  void Shut(const Napi::CallbackInfo& info);
  void Configure(const Napi::CallbackInfo& info);
  void RefuseLoopback(const Napi::CallbackInfo& info);
  void Listen(const Napi::CallbackInfo& info);
  Napi::Value Send(const Napi::CallbackInfo& info);
  Napi::Value Receive(const Napi::CallbackInfo& info);
  Napi::Value Fetch(const Napi::CallbackInfo& info);
  void Consume(const Napi::CallbackInfo& info);
  void Forget(const Napi::CallbackInfo& info);

  void Range(const Napi::CallbackInfo& info, uint32_t* first, uint32_t* count) const;
  // Looks for what is of interest now.
  void Watch(Napi::Env env);
  void StopWatching();

  std::shared_ptr<Reactor> reactor_;
  // ArrayBuffers of JavaScript's lie over it
  std::shared_ptr<FrameArea> area_;
  FrameMemory memory_;
  FrameSettings settings_;
  FrameSink sink_;
  std::unique_ptr<FrameWire> wire_;
  bool listening_ = false;
  // in the epoll set, with these events
  bool watched_ = false;
  uint32_t events_ = 0;
  // the peer has closed: epoll would tell that again and again, whatever it is asked for
  bool hung_up_ = false;
};

}  // namespace tsvm
