#include "event_fd.h"

#include <cerrno>
#include <ctime>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "addon.h"
#include "arguments.h"
#include "error.h"

namespace tsvm {

namespace {

Fd CreateEventFd(Napi::Env env) {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) ThrowErrno(env, errno, "eventfd", "event");
  return Fd(fd);
}

Fd CreateTimerFd(Napi::Env env) {
  const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0) ThrowErrno(env, errno, "timerfd_create", "timer");
  return Fd(fd);
}

timespec FromNanoseconds(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

}  // namespace

template <typename Self>
CounterFd<Self>::CounterFd(const Napi::CallbackInfo& info, Fd fd)
    : Napi::ObjectWrap<Self>(info), fd_(std::move(fd)), reactor_(AddonData::Of(info.Env()).reactor) {}

template <typename Self>
CounterFd<Self>::~CounterFd() {
  StopWatching();
}

template <typename Self>
int CounterFd<Self>::Open(Napi::Env env) const {
  if (!fd_) ThrowClosed(env, "event");
  return fd_.get();
}

template <typename Self>
uint64_t CounterFd<Self>::ReadCounter() const {
  uint64_t count = 0;
  ssize_t got;
  do {
    got = read(fd_.get(), &count, sizeof count);
  } while (got < 0 && errno == EINTR);
  return got == sizeof count ? count : 0;
}

template <typename Self>
void CounterFd<Self>::OnReadable(Napi::Env env) {
  const uint64_t count = ReadCounter();
  const Napi::Object self = this->Value();
  if (count == 0 || self.IsEmpty()) return;
  EmitCallback(env, self, "onEvent", {Napi::Number::New(env, static_cast<double>(count))});
}

template <typename Self>
Napi::Value CounterFd<Self>::GetFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Open(info.Env()));
}

template <typename Self>
void CounterFd<Self>::Watch(const Napi::CallbackInfo& info) {
  const int fd = Open(info.Env());
  if (watched_) return;
  reactor_->Add(info.Env(), fd, this);
  watched_ = true;
}

template <typename Self>
void CounterFd<Self>::Unwatch(const Napi::CallbackInfo&) {
  StopWatching();
}

template <typename Self>
void CounterFd<Self>::StopWatching() {
  if (!watched_) return;
  watched_ = false;
  reactor_->Remove(fd_.get(), this);
}

template <typename Self>
Napi::Value CounterFd<Self>::Drain(const Napi::CallbackInfo& info) {
  Open(info.Env());
  return Napi::Number::New(info.Env(), static_cast<double>(ReadCounter()));
}

template <typename Self>
void CounterFd<Self>::Close(const Napi::CallbackInfo&) {
  StopWatching();
  fd_.Reset();
}

template <typename Self>
std::vector<Napi::ClassPropertyDescriptor<Self>> CounterFd<Self>::Common() {
  return {
      Self::InstanceAccessor("fd", &Self::GetFd, nullptr),
      Self::InstanceMethod("watch", &Self::Watch),
      Self::InstanceMethod("unwatch", &Self::Unwatch),
      Self::InstanceMethod("drain", &Self::Drain),
      Self::InstanceMethod("close", &Self::Close),
  };
}

void EventFd::Define(Napi::Env env, Napi::Object exports) {
  auto properties = Common();
  properties.push_back(InstanceMethod("signal", &EventFd::Signal));
  exports.Set("EventFd", DefineClass(env, "EventFd", properties));
}

EventFd::EventFd(const Napi::CallbackInfo& info) : CounterFd(info, CreateEventFd(info.Env())) {}

void EventFd::Signal(const Napi::CallbackInfo& info) {
  const uint64_t one = 1;
  // EAGAIN means that the counter is at its limit: the event is pending, which is all that counts.
  if (write(Open(info.Env()), &one, sizeof one) < 0 && errno != EAGAIN) {
    ThrowErrno(info.Env(), errno, "write", "eventfd");
  }
}

void Timer::Define(Napi::Env env, Napi::Object exports) {
  auto properties = Common();
  properties.push_back(InstanceMethod("arm", &Timer::Arm));
  exports.Set("Timer", DefineClass(env, "Timer", properties));
}

Timer::Timer(const Napi::CallbackInfo& info) : CounterFd(info, CreateTimerFd(info.Env())) {}

void Timer::Arm(const Napi::CallbackInfo& info) {
  itimerspec spec{};
  spec.it_value = FromNanoseconds(ToUint(info[0], "delay"));
  spec.it_interval = FromNanoseconds(info[1].IsUndefined() ? 0 : ToUint(info[1], "interval"));
  if (timerfd_settime(Open(info.Env()), 0, &spec, nullptr) < 0) {
    ThrowErrno(info.Env(), errno, "timerfd_settime", "timer");
  }
}

}  // namespace tsvm
