#include "unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "addon.h"
#include "arguments.h"
#include "error.h"

namespace tsvm {

namespace {

constexpr int kBacklog = 128;
// For two or three of the largest frames, of twice of which the kernel keeps account; it takes less where its limit is
// lower. More of them would be out of the processor's cache before they are read.
constexpr int kSendBuffer = 160 * 1024;

sockaddr_un AddressOf(Napi::Env env, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    ThrowErrno(env, path.empty() ? EINVAL : ENAMETOOLONG, "socket", path.c_str());
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Fd NewSocket(Napi::Env env, const char* request) {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) ThrowErrno(env, errno, "socket", request);
  return fd;
}

void Enlarge(int fd) { setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer); }

Napi::Value Connect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = ToString(info[0], "path");
  const sockaddr_un address = AddressOf(env, path);
  Fd fd = NewSocket(env, path.c_str());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    ThrowErrno(env, errno, "connect", path.c_str());
  }
  Enlarge(fd.get());
  return Napi::Number::New(env, fd.Release());
}

Napi::Value Pair(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
    ThrowErrno(env, errno, "socketpair", "frames");
  }
  auto pair = Napi::Array::New(env, 2);
  for (uint32_t i = 0; i < 2; i++) {
    Enlarge(ends[i]);
    pair.Set(i, Napi::Number::New(env, ends[i]));
  }
  return pair;
}

struct DescriptorMessage {
  char byte = 0;
  iovec piece{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};

  DescriptorMessage() {
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
};

void SendDescriptor(const Napi::CallbackInfo& info) {
  const int socket = ToFd(info[0], "socket"), fd = ToFd(info[1], "fd");
  DescriptorMessage message;
  cmsghdr* head = CMSG_FIRSTHDR(&message.header);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  ssize_t got;
  do {
    got = sendmsg(socket, &message.header, MSG_NOSIGNAL);
  } while (got < 0 && errno == EINTR);
  if (got < 0) ThrowErrno(info.Env(), errno, "sendmsg", "descriptor");
}

// The descriptor that comes with the next byte; -1 where there is none yet, or none with it.
Napi::Value ReceiveDescriptor(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  DescriptorMessage message;
  ssize_t got;
  do {
    got = recvmsg(ToFd(info[0], "socket"), &message.header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno != EAGAIN) ThrowErrno(env, errno, "recvmsg", "descriptor");
  if (got == 0) ThrowErrno(env, EPIPE, "recvmsg", "descriptor");
  int fd = -1;
  const cmsghdr* head = got < 0 ? nullptr : CMSG_FIRSTHDR(&message.header);
  if (head != nullptr && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
      head->cmsg_len == CMSG_LEN(sizeof fd)) {
    std::memcpy(&fd, CMSG_DATA(head), sizeof fd);
  }
  return Napi::Number::New(env, fd);
}

}  // namespace

void UnixListener::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("UnixListener", DefineClass(env, "UnixListener",
                                          {
                                              InstanceMethod("accept", &UnixListener::Accept),
                                              InstanceMethod("close", &UnixListener::Close),
                                          }));
}

UnixListener::UnixListener(const Napi::CallbackInfo& info)
    : ObjectWrap(info), reactor_(AddonData::Of(info.Env()).reactor) {
  Napi::Env env = info.Env();
  const std::string path = ToString(info[0], "path");
  const sockaddr_un address = AddressOf(env, path);
  Fd fd = NewSocket(env, path.c_str());
  // What bind() makes has the mode of the socket: it is its owner's alone from the first moment on.
  if (fchmod(fd.get(), 0600) < 0) ThrowErrno(env, errno, "fchmod", path.c_str());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    ThrowErrno(env, errno, "bind", path.c_str());
  }
  if (listen(fd.get(), kBacklog) < 0) ThrowErrno(env, errno, "listen", path.c_str());
  reactor_->Add(env, fd.get(), this);
  reactor_->Ref();
  Ref();
  watched_ = true;
  fd_ = std::move(fd);
}

UnixListener::~UnixListener() { Stop(); }

void UnixListener::Stop() {
  if (!watched_) return;
  watched_ = false;
  reactor_->Remove(fd_.get(), this);
  reactor_->Unref();
}

void UnixListener::OnReadable(Napi::Env env) {
  const Napi::Object self = Value();
  if (!self.IsEmpty()) EmitCallback(env, self, "onConnection", {});
}

Napi::Value UnixListener::Accept(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!fd_) ThrowClosed(env, "listener");
  int fd;
  do {
    fd = accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
  if (fd < 0 && errno != EAGAIN) ThrowErrno(env, errno, "accept", "listener");
  if (fd >= 0) Enlarge(fd);
  return Napi::Number::New(env, fd);
}

void UnixListener::Close(const Napi::CallbackInfo&) {
  if (!watched_) return;
  Stop();
  fd_.Reset();
  Unref();
}

void DefineUnixSocket(Napi::Env env, Napi::Object exports) {
  Napi::Object calls = Napi::Object::New(env);
  calls.Set("connect", Napi::Function::New(env, Connect));
  calls.Set("pair", Napi::Function::New(env, Pair));
  calls.Set("sendDescriptor", Napi::Function::New(env, SendDescriptor));
  calls.Set("receiveDescriptor", Napi::Function::New(env, ReceiveDescriptor));
  exports.Set("unixSocket", calls);
}

}  // namespace tsvm
