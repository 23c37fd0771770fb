// Work on a thread of libuv's pool that a promise tells of.
#pragma once

#include <napi.h>

#include <functional>

namespace tsvm {

// Runs `work` on another thread. It returns an errno value, or 0 and puts its number into `result`, which the promise
// resolves with. An error is that of `syscall`, asked for `request`; both are literals.
Napi::Promise RunOnThread(Napi::Env env, const char* syscall, const char* request,
                          std::function<int(double* result)> work);

}  // namespace tsvm
