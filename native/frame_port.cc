#include "frame_port.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <cerrno>
#include <cstring>

#include "addon.h"
#include "arguments.h"
#include "error.h"
#include "shared_bytes.h"

namespace tsvm {

void FramePort::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("FramePort", DefineClass(env, "FramePort",
                                       {
                                           InstanceAccessor("fd", &FramePort::GetFd, nullptr),
                                           InstanceMethod("area", &FramePort::Area),
                                           InstanceMethod("staging", &FramePort::Staging),
                                           InstanceMethod("register", &FramePort::Register),
                                           InstanceMethod("unregister", &FramePort::Unregister),
                                           InstanceMethod("open", &FramePort::Open),
                                           InstanceMethod("shut", &FramePort::Shut),
                                           InstanceMethod("configure", &FramePort::Configure),
                                           InstanceMethod("refuseLoopback", &FramePort::RefuseLoopback),
                                           InstanceMethod("listen", &FramePort::Listen),
                                           InstanceMethod("send", &FramePort::Send),
                                           InstanceMethod("receive", &FramePort::Receive),
                                           InstanceMethod("fetch", &FramePort::Fetch),
                                           InstanceMethod("consume", &FramePort::Consume),
                                           InstanceMethod("forget", &FramePort::Forget),
                                       }));
}

FramePort::FramePort(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      reactor_(AddonData::Of(info.Env()).reactor),
      area_(std::make_shared<FrameArea>()),
      sink_(area_.get(), &memory_, &settings_) {
  area_->filter.flags = FrameFilter::kPromiscuous;
}

FramePort::~FramePort() { StopWatching(); }

Napi::Value FramePort::GetFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), wire_ ? wire_->fd() : -1);
}

Napi::Value FramePort::Area(const Napi::CallbackInfo& info) {
  return ShareBytes(info.Env(), area_.get(), sizeof(FrameArea), area_);
}

Napi::Value FramePort::Staging(const Napi::CallbackInfo& info) {
  std::shared_ptr<uint8_t[]> staging = wire_ ? wire_->staging() : nullptr;
  if (!staging) return info.Env().Undefined();
  return ShareBytes(info.Env(), staging.get(), kStaging, staging);
}

Napi::Value FramePort::Register(const Napi::CallbackInfo& info) {
  if (!info[0].IsArrayBuffer()) throw Napi::TypeError::New(info.Env(), "buffer must be an ArrayBuffer");
  const int32_t number = memory_.Register(info.Env(), info[0].As<Napi::ArrayBuffer>(), ToUint(info[1], "offset"),
                                          ToUint(info[2], "length"));
  return Napi::Number::New(info.Env(), number);
}

void FramePort::Unregister(const Napi::CallbackInfo& info) {
  memory_.Unregister(info.Env(), ToUint32(info[0], "buffer", INT32_MAX));
}

void FramePort::Open(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (wire_) throw Napi::Error::New(env, "the port is open already");
  const int number = ToFd(info[0], "fd");
  const std::string kind = ToString(info[1], "kind");
  const bool header = ToBool(info[2], "header");
  if (kind != "stream" && kind != "tap") throw Napi::RangeError::New(env, "kind must be stream or tap");
  if (kind == "tap" && !header) throw Napi::RangeError::New(env, "a tap has headers");
  const int flags = fcntl(number, F_GETFL);
  if (flags < 0) ThrowErrno(env, errno, "fcntl", "frame port");
  if (fcntl(number, F_SETFL, flags | O_NONBLOCK) < 0) ThrowErrno(env, errno, "fcntl", "frame port");
  // Theirs from here on: closed with the port, also where this fails.
  Fd fd(number);
  settings_.wire_header = header;
  area_->status = FrameStatus{};
  wire_ = kind == "tap" ? CreateTapWire(std::move(fd), area_.get(), &memory_, &settings_)
                        : CreateStreamWire(std::move(fd), area_.get(), &memory_, &settings_);
  hung_up_ = false;
  Watch(env);
}

void FramePort::Shut(const Napi::CallbackInfo&) {
  StopWatching();
  wire_.reset();
  area_->status = FrameStatus{};
}

void FramePort::Configure(const Napi::CallbackInfo& info) {
  const bool header = ToBool(info[0], "header"), mergeable = ToBool(info[1], "mergeable");
  const uint32_t host = ToUint32(info[2], "host offloads", kOffloadAll);
  const uint32_t guest = ToUint32(info[3], "guest offloads", kOffloadAll);
  settings_.memory_header = header;
  settings_.mergeable = mergeable && header;
  settings_.host_offloads = host;
  settings_.guest_offloads = guest;
}

void FramePort::RefuseLoopback(const Napi::CallbackInfo& info) {
  settings_.refuse_loopback = ToBool(info[0], "refuse");
}

void FramePort::Listen(const Napi::CallbackInfo& info) {
  listening_ = ToBool(info[0], "listening");
  Watch(info.Env());
}

void FramePort::Watch(Napi::Env env) {
  if (!wire_ || hung_up_) return;
  const uint32_t events =
      (listening_ ? uint32_t{EPOLLIN} : 0) | (area_->status.blocked != 0 ? uint32_t{EPOLLOUT} : 0);
  if (watched_ && events == events_) return;
  if (events == 0 && !wire_->TellsEnd()) {
    StopWatching();
    return;
  }
  // Where nothing is of interest, it is the end of it all.
  reactor_->Watch(env, wire_->fd(), this, events, watched_);
  watched_ = true;
  events_ = events;
}

void FramePort::StopWatching() {
  if (!watched_) return;
  watched_ = false;
  reactor_->Remove(wire_->fd(), this);
}

void FramePort::OnReadable(Napi::Env) {}

void FramePort::OnReady(Napi::Env env, uint32_t events) {
  const Napi::Object self = Value();
  if (self.IsEmpty() || !wire_) return;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 && (events & events_) == 0) {
    // What the peer has sent is read until its end, once somebody wants to; who sends finds out then.
    StopWatching();
    hung_up_ = true;
    EmitCallback(env, self, "onHangUp", {});
    return;
  }
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0 && (events_ & EPOLLOUT) != 0 && wire_->Flush()) {
    area_->status.blocked = 0;
    Watch(env);
    EmitCallback(env, self, "onWritable", {});
  } else if (wire_ && area_->status.ended != 0) {
    EmitCallback(env, self, "onWritable", {});
  }
  if (wire_ && listening_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    EmitCallback(env, self, "onReadable", {});
  }
}

void FramePort::Range(const Napi::CallbackInfo& info, uint32_t* first, uint32_t* count) const {
  *first = ToUint32(info[0], "first", kFrameRecords);
  *count = ToUint32(info[1], "count", kFrameRecords - *first);
}

Napi::Value FramePort::Send(const Napi::CallbackInfo& info) {
  uint32_t first, count;
  Range(info, &first, &count);
  if (!wire_ || area_->status.ended != 0) {
    area_->counters.tx_dropped += count;
    return Napi::Number::New(info.Env(), count);
  }
  const uint32_t done = wire_->Send(first, count);
  Watch(info.Env());
  return Napi::Number::New(info.Env(), done);
}

Napi::Value FramePort::Receive(const Napi::CallbackInfo& info) {
  uint32_t first, count;
  Range(info, &first, &count);
  area_->status.receive_end = static_cast<int32_t>(ReceiveEnd::kDrained);
  if (!wire_ || area_->status.ended != 0) return Napi::Number::New(info.Env(), 0);
  sink_.Begin(first, count);
  wire_->Receive(&sink_);
  return Napi::Number::New(info.Env(), sink_.used());
}

Napi::Value FramePort::Fetch(const Napi::CallbackInfo& info) {
  if (!wire_ || area_->status.ended != 0) return Napi::Number::New(info.Env(), 0);
  return Napi::Number::New(info.Env(), wire_->Fetch());
}

void FramePort::Consume(const Napi::CallbackInfo& info) {
  const uint32_t count = ToUint32(info[0], "count", kFrameSpans);
  if (wire_) wire_->Consume(count);
}

void FramePort::Forget(const Napi::CallbackInfo&) {
  if (wire_) wire_->Forget();
}

}  // namespace tsvm
