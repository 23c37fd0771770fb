#include "host_file.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <unistd.h>

#include "arguments.h"
#include "error.h"

namespace tsvm {

namespace {

constexpr uint64_t kMaxOffset = (uint64_t{1} << 53) - 1;

struct flock Range(const Napi::CallbackInfo& info, short type) {
  struct flock range = {};  // l_pid must be 0 for OFD locks
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(ToUint(info[1], "start", kMaxOffset));
  range.l_len = static_cast<off_t>(ToUint(info[2], "length", kMaxOffset));
  return range;
}

// lockShared(fd, start, length): whether nobody has an exclusive lock there. An OFD lock (fcntl(2)) belongs to the open
// file description: unlike a process's lock it outlives other descriptors of the same file, and ends with its own.
Napi::Value LockShared(const Napi::CallbackInfo& info) {
  const int fd = ToFd(info[0], "fd");
  struct flock range = Range(info, F_RDLCK);
  if (fcntl(fd, F_OFD_SETLK, &range) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EAGAIN || errno == EACCES) return Napi::Boolean::New(info.Env(), false);
  ThrowErrno(info.Env(), errno, "fcntl", "F_OFD_SETLK");
}

// unlock(fd, start, length)
Napi::Value Unlock(const Napi::CallbackInfo& info) {
  const int fd = ToFd(info[0], "fd");
  struct flock range = Range(info, F_UNLCK);
  if (fcntl(fd, F_OFD_SETLK, &range) != 0) ThrowErrno(info.Env(), errno, "fcntl", "F_OFD_SETLK");
  return info.Env().Undefined();
}

// findLock(fd, start, length): the lock of somebody else that an exclusive one would meet there. `pid` is -1 where that
// is an OFD lock, as these belong to no process.
Napi::Value FindLock(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = ToFd(info[0], "fd");
  struct flock range = Range(info, F_WRLCK);
  if (fcntl(fd, F_OFD_GETLK, &range) != 0) ThrowErrno(env, errno, "fcntl", "F_OFD_GETLK");
  if (range.l_type == F_UNLCK) return env.Undefined();
  Napi::Object found = Napi::Object::New(env);
  found.Set("start", Napi::Number::New(env, static_cast<double>(range.l_start)));
  found.Set("pid", Napi::Number::New(env, range.l_pid));
  return found;
}

// seek(fd, offset, hole): where the next data or hole begins; -1 where there is no data up to the end of the file.
Napi::Value Seek(const Napi::CallbackInfo& info) {
  const int fd = ToFd(info[0], "fd");
  const auto offset = static_cast<off_t>(ToUint(info[1], "offset", kMaxOffset));
  const off_t at = lseek(fd, offset, ToBool(info[2], "hole") ? SEEK_HOLE : SEEK_DATA);
  if (at < 0 && errno != ENXIO) ThrowErrno(info.Env(), errno, "lseek", "SEEK_DATA");
  return Napi::Number::New(info.Env(), static_cast<double>(at < 0 ? -1 : at));
}

// link(fd, path): gives the file a name, which must be free. link(2) would not follow the link in /proc.
Napi::Value Link(const Napi::CallbackInfo& info) {
  char from[32];
  std::snprintf(from, sizeof(from), "/proc/self/fd/%d", ToFd(info[0], "fd"));
  const std::string path = ToString(info[1], "path");
  if (linkat(AT_FDCWD, from, AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    ThrowErrno(info.Env(), errno, "linkat", path.c_str());
  }
  return info.Env().Undefined();
}

}  // namespace

void DefineHostFile(Napi::Env env, Napi::Object exports) {
  Napi::Object calls = Napi::Object::New(env);
  calls.Set("lockShared", Napi::Function::New(env, LockShared));
  calls.Set("unlock", Napi::Function::New(env, Unlock));
  calls.Set("findLock", Napi::Function::New(env, FindLock));
  calls.Set("seek", Napi::Function::New(env, Seek));
  calls.Set("link", Napi::Function::New(env, Link));
  exports.Set("hostFile", calls);
}

}  // namespace tsvm
