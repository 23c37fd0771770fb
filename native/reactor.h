// File descriptors that wake JavaScript. One epoll set for each environment (main thread or worker) hangs in its
// libuv loop as a single handle: adding and removing a descriptor is synchronous, and one wake-up serves many.
#pragma once

#include <napi.h>
#include <uv.h>

#include <memory>

#include "fd.h"

struct epoll_event;

namespace tsvm {

// Something that is told when its descriptor is ready. Called on the JavaScript thread in a HandleScope.
class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void OnReadable(Napi::Env env) = 0;
  // `events` as epoll_wait(2) tells them; for those who look for more than input.
  virtual void OnReady(Napi::Env env, uint32_t events) {
    static_cast<void>(events);
    OnReadable(env);
  }
};

class Reactor : public std::enable_shared_from_this<Reactor> {
 public:
  explicit Reactor(Napi::Env env);
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  void Add(Napi::Env env, int fd, Watcher* watcher);
  // Looks for these events (EPOLLIN, EPOLLOUT) from now on; `added` where the descriptor is in the set already.
  void Watch(Napi::Env env, int fd, Watcher* watcher, uint32_t events, bool added);
  // May be called for a descriptor that was never added, after Close(), and from within OnReadable().
  void Remove(int fd, Watcher* watcher);
  // The loop stays alive while the count is above zero.
  void Ref();
  void Unref();
  // Ends the libuv handle; `done` runs on the loop once that is gone.
  void Close(void (*done)(void*), void* argument);

 private:
  void Dispatch();

  napi_env env_;
  Fd epoll_;
  uv_poll_t* handle_ = nullptr;
  int refs_ = 0;
  // the batch that is being dispatched, so that Remove() can strike a watcher from it
  epoll_event* batch_ = nullptr;
  int batch_size_ = 0;
};

// Calls method `name` of `object` as an event does: microtasks run afterwards, an exception becomes
// 'uncaughtException'. Returns the result, or an empty value after an exception.
Napi::Value EmitCallback(Napi::Env env, Napi::Object object, const char* name,
                         std::initializer_list<napi_value> arguments);

}  // namespace tsvm
