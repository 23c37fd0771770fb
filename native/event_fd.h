// eventfd and timerfd with a JavaScript face. Both call `onEvent(count)` on themselves while they are watched.
// Being watched keeps neither the object nor the event loop alive: whoever wants the events holds the object.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "fd.h"
#include "reactor.h"

namespace tsvm {

// What the two share: a descriptor that reads as one 64-bit counter.
template <typename Self>
class CounterFd : public Napi::ObjectWrap<Self>, public Watcher {
 public:
  CounterFd(const Napi::CallbackInfo& info, Fd fd);
  ~CounterFd() override;
  void OnReadable(Napi::Env env) override;

 protected:
  static std::vector<Napi::ClassPropertyDescriptor<Self>> Common();
  int Open(Napi::Env env) const;

 private:
  Napi::Value GetFd(const Napi::CallbackInfo& info);
  void Watch(const Napi::CallbackInfo& info);
  void Unwatch(const Napi::CallbackInfo& info);
  Napi::Value Drain(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  void StopWatching();
  uint64_t ReadCounter() const;

  Fd fd_;
  bool watched_ = false;
  std::shared_ptr<Reactor> reactor_;
};

class EventFd : public CounterFd<EventFd> {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit EventFd(const Napi::CallbackInfo& info);

 private:
  void Signal(const Napi::CallbackInfo& info);
};

class Timer : public CounterFd<Timer> {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit Timer(const Napi::CallbackInfo& info);

 private:
  void Arm(const Napi::CallbackInfo& info);
};

}  // namespace tsvm
