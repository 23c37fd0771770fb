#include "tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

// What <net/if.h> of the C library does not have, and the kernel's would define twice.
#include <linux/sockios.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "arguments.h"
#include "error.h"
#include "fd.h"
#include "vnet_header.h"

namespace tsvm {

namespace {

constexpr const char* kDevice = "/dev/net/tun";

ifreq RequestFor(const Napi::Value& name) {
  Napi::Env env = name.Env();
  const std::string text = ToString(name, "name");
  ifreq request{};
  if (text.empty() || text.size() >= IFNAMSIZ) throw Napi::RangeError::New(env, "an interface's name has 1 to 15 bytes");
  std::memcpy(request.ifr_name, text.data(), text.size());
  return request;
}

// Asks something of an interface, by a socket that is for nothing else: of any family, and one that a process without
// a network may have, too.
void AskInterface(Napi::Env env, unsigned long request, const char* name, ifreq* argument) {
  Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) ThrowErrno(env, errno, "socket", name);
  Ioctl(env, fd.get(), request, name, argument);
}

Napi::Value Open(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  ifreq request = RequestFor(info[0]);
  const bool multi_queue = ToBool(info[1], "multiQueue");
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
  Fd fd(open(kDevice, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) ThrowErrno(env, errno, "open", kDevice);
  Ioctl(env, fd.get(), TUNSETIFF, "TUNSETIFF", &request);
  int size = sizeof(VnetHeader);
  Ioctl(env, fd.get(), TUNSETVNETHDRSZ, "TUNSETVNETHDRSZ", &size);
  Ioctl(env, fd.get(), TUNSETOFFLOAD, "TUNSETOFFLOAD", 0ul);
  request.ifr_name[IFNAMSIZ - 1] = '\0';
  Napi::Object result = Napi::Object::New(env);
  result.Set("name", Napi::String::New(env, request.ifr_name));
  result.Set("fd", Napi::Number::New(env, fd.get()));
  fd.Release();
  return result;
}

void Offloads(const Napi::CallbackInfo& info) {
  const uint32_t wanted = ToUint32(info[1], "offloads", kOffloadAll);
  unsigned long flags = 0;
  // The kernel takes segmentation only together with checksums.
  if ((wanted & kOffloadChecksum) != 0) {
    flags |= TUN_F_CSUM;
    if ((wanted & kOffloadTso4) != 0) flags |= TUN_F_TSO4;
    if ((wanted & kOffloadTso6) != 0) flags |= TUN_F_TSO6;
    if ((wanted & kOffloadEcn) != 0 && (wanted & (kOffloadTso4 | kOffloadTso6)) != 0) flags |= TUN_F_TSO_ECN;
  }
  Ioctl(info.Env(), ToFd(info[0], "fd"), TUNSETOFFLOAD, "TUNSETOFFLOAD", flags);
}

void Carrier(const Napi::CallbackInfo& info) {
  int up = ToBool(info[1], "up") ? 1 : 0;
  Ioctl(info.Env(), ToFd(info[0], "fd"), TUNSETCARRIER, "TUNSETCARRIER", &up);
}

// Whether a queue of a tap with several is in use: the kernel puts frames only into those.
void Attach(const Napi::CallbackInfo& info) {
  ifreq request{};
  request.ifr_flags = static_cast<short>(ToBool(info[1], "used") ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  Ioctl(info.Env(), ToFd(info[0], "fd"), TUNSETQUEUE, "TUNSETQUEUE", &request);
}

Napi::Value Index(const Napi::CallbackInfo& info) {
  const ifreq request = RequestFor(info[0]);
  return Napi::Number::New(info.Env(), if_nametoindex(request.ifr_name));
}

Napi::Value Mtu(const Napi::CallbackInfo& info) {
  ifreq request = RequestFor(info[0]);
  AskInterface(info.Env(), SIOCGIFMTU, "SIOCGIFMTU", &request);
  return Napi::Number::New(info.Env(), request.ifr_mtu);
}

void SetMtu(const Napi::CallbackInfo& info) {
  ifreq request = RequestFor(info[0]);
  request.ifr_mtu = static_cast<int>(ToUint32(info[1], "mtu", 65535));
  AskInterface(info.Env(), SIOCSIFMTU, "SIOCSIFMTU", &request);
}

void Up(const Napi::CallbackInfo& info) {
  ifreq request = RequestFor(info[0]);
  AskInterface(info.Env(), SIOCGIFFLAGS, "SIOCGIFFLAGS", &request);
  if ((request.ifr_flags & IFF_UP) != 0) return;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  AskInterface(info.Env(), SIOCSIFFLAGS, "SIOCSIFFLAGS", &request);
}

void JoinBridge(const Napi::CallbackInfo& info) {
  ifreq request = RequestFor(info[0]);
  const ifreq port = RequestFor(info[1]);
  request.ifr_ifindex = static_cast<int>(if_nametoindex(port.ifr_name));
  AskInterface(info.Env(), SIOCBRADDIF, "SIOCBRADDIF", &request);
}

}  // namespace

void DefineTap(Napi::Env env, Napi::Object exports) {
  Napi::Object calls = Napi::Object::New(env);
  calls.Set("open", Napi::Function::New(env, Open));
  calls.Set("offloads", Napi::Function::New(env, Offloads));
  calls.Set("carrier", Napi::Function::New(env, Carrier));
  calls.Set("attach", Napi::Function::New(env, Attach));
  calls.Set("index", Napi::Function::New(env, Index));
  calls.Set("mtu", Napi::Function::New(env, Mtu));
  calls.Set("setMtu", Napi::Function::New(env, SetMtu));
  calls.Set("up", Napi::Function::New(env, Up));
  calls.Set("joinBridge", Napi::Function::New(env, JoinBridge));
  exports.Set("tap", calls);
}

}  // namespace tsvm
