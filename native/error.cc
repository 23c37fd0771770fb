#include "error.h"

#include <cerrno>
#include <sys/ioctl.h>

#include "addon.h"

namespace tsvm {

void ThrowErrno(Napi::Env env, int error, const char* syscall, const char* request) {
  Napi::Object thrown = AddonData::Of(env).error_class.Value().New(
      {Napi::Number::New(env, error), Napi::String::New(env, syscall), Napi::String::New(env, request)});
  throw Napi::Error(env, thrown);
}

void ThrowClosed(Napi::Env env, const char* what) { ThrowErrno(env, EBADF, "closed", what); }

int Ioctl(Napi::Env env, int fd, unsigned long request, const char* name, unsigned long argument) {
  int result;
  do {
    result = ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  if (result < 0) ThrowErrno(env, errno, "ioctl", name);
  return result;
}

int Ioctl(Napi::Env env, int fd, unsigned long request, const char* name, void* argument) {
  return Ioctl(env, fd, request, name, reinterpret_cast<unsigned long>(argument));
}

}  // namespace tsvm
