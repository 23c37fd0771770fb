// Unix stream sockets that frames go through: connected, accepted, in pairs, and handed to another process.
#pragma once

#include <napi.h>

#include <memory>

#include "fd.h"
#include "reactor.h"

namespace tsvm {

// Tells of connections, and accepts them. Keeps the event loop alive while it is open.
class UnixListener : public Napi::ObjectWrap<UnixListener>, public Watcher {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit UnixListener(const Napi::CallbackInfo& info);
  ~UnixListener() override;
  void OnReadable(Napi::Env env) override;

 private:
  Napi::Value Accept(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  void Stop();

  Fd fd_;
  std::shared_ptr<Reactor> reactor_;
  bool watched_ = false;
};

// connect(path), pair(), sendDescriptor(socket, fd) and receiveDescriptor(socket).
void DefineUnixSocket(Napi::Env env, Napi::Object exports);

}  // namespace tsvm
