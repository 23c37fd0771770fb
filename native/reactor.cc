#include "reactor.h"

#include <cerrno>
#include <sys/epoll.h>

#include "addon.h"
#include "error.h"

namespace tsvm {

namespace {

constexpr int kBatch = 64;

struct Closing {
  void (*done)(void*);
  void* argument;
};

}  // namespace

Reactor::Reactor(Napi::Env env) : env_(env), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) ThrowErrno(env, errno, "epoll_create1", "event loop");
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  handle_ = new uv_poll_t;
  const int failed = uv_poll_init(loop, handle_, epoll_.get());
  if (failed < 0) {
    delete handle_;
    handle_ = nullptr;
    ThrowErrno(env, -failed, "uv_poll_init", "event loop");
  }
  handle_->data = this;
  uv_poll_start(handle_, UV_READABLE,
                [](uv_poll_t* handle, int, int) { static_cast<Reactor*>(handle->data)->Dispatch(); });
  uv_unref(reinterpret_cast<uv_handle_t*>(handle_));
}

Reactor::~Reactor() { Close(nullptr, nullptr); }

void Reactor::Add(Napi::Env env, int fd, Watcher* watcher) { Watch(env, fd, watcher, EPOLLIN, false); }

void Reactor::Watch(Napi::Env env, int fd, Watcher* watcher, uint32_t events, bool added) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = watcher;
  const int operation = added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(epoll_.get(), operation, fd, &event) < 0) ThrowErrno(env, errno, "epoll_ctl", "watch");
}

void Reactor::Remove(int fd, Watcher* watcher) {
  if (epoll_) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  for (int i = 0; i < batch_size_; i++) {
    if (batch_[i].data.ptr == watcher) batch_[i].data.ptr = nullptr;
  }
}

void Reactor::Ref() {
  if (refs_++ == 0 && handle_ != nullptr) uv_ref(reinterpret_cast<uv_handle_t*>(handle_));
}

void Reactor::Unref() {
  if (--refs_ == 0 && handle_ != nullptr) uv_unref(reinterpret_cast<uv_handle_t*>(handle_));
}

void Reactor::Close(void (*done)(void*), void* argument) {
  if (handle_ == nullptr) return;
  uv_poll_stop(handle_);
  handle_->data = new Closing{done, argument};
  // The descriptor may go before the close callback runs: the handle is stopped, libuv has let go of it.
  uv_close(reinterpret_cast<uv_handle_t*>(handle_), [](uv_handle_t* handle) {
    std::unique_ptr<Closing> closing(static_cast<Closing*>(handle->data));
    delete reinterpret_cast<uv_poll_t*>(handle);
    if (closing->done != nullptr) closing->done(closing->argument);
  });
  handle_ = nullptr;
  epoll_.Reset();
}

void Reactor::Dispatch() {
  auto self = shared_from_this();
  Napi::Env env(env_);
  Napi::HandleScope scope(env);
  epoll_event events[kBatch];
  const int count = epoll_wait(epoll_.get(), events, kBatch, 0);
  if (count <= 0) return;
  batch_ = events;
  batch_size_ = count;
  for (int i = 0; i < count; i++) {
    auto* watcher = static_cast<Watcher*>(events[i].data.ptr);
    if (watcher == nullptr) continue;
    Napi::HandleScope inner(env);
    try {
      watcher->OnReady(env, events[i].events);
    } catch (const Napi::Error&) {
      // Callbacks' own errors do not get here: the environment is shutting down and makes no more values.
    }
  }
  batch_ = nullptr;
  batch_size_ = 0;
}

// In plain Node-API: while an environment is being torn down its calls fail without an exception that could be
// turned into a C++ one, and node-addon-api ends the process then.
Napi::Value EmitCallback(Napi::Env env, Napi::Object object, const char* name,
                         std::initializer_list<napi_value> arguments) {
  napi_value method = nullptr;
  napi_status status = napi_get_named_property(env, object, name, &method);
  if (status == napi_ok) {
    napi_valuetype type;
    if (napi_typeof(env, method, &type) != napi_ok || type != napi_function) return {};
    napi_value result = nullptr;
    status = napi_make_callback(env, AddonData::Of(env).async_context, object, method, arguments.size(),
                                arguments.begin(), &result);
    if (status == napi_ok) return {env, result};
  }
  bool pending = false;
  napi_value error = nullptr;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending &&
      napi_get_and_clear_last_exception(env, &error) == napi_ok) {
    napi_fatal_exception(env, error);
  }
  return {};
}

}  // namespace tsvm
