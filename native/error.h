// Failed system calls as JavaScript errors.
#pragma once

#include <napi.h>

namespace tsvm {

// Throws a KvmError (src/kvm/errors.ts) for `error` (an errno value), which `syscall` gave for `request`.
[[noreturn]] void ThrowErrno(Napi::Env env, int error, const char* syscall, const char* request);

// An object that was closed is used again: EBADF without a system call.
[[noreturn]] void ThrowClosed(Napi::Env env, const char* what);

// ioctl() that is tried again on EINTR and throws on other errors; returns what the kernel returned.
int Ioctl(Napi::Env env, int fd, unsigned long request, const char* name, void* argument);
int Ioctl(Napi::Env env, int fd, unsigned long request, const char* name, unsigned long argument = 0);

}  // namespace tsvm
