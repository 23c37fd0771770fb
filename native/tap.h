// Taps of Linux, and what of a network interface is set by ioctl: a bridge's port, up, the MTU.
#pragma once

#include <napi.h>

namespace tsvm {

// open(name, multiQueue), offloads(fd, set), carrier(fd, up), attach(fd, used), index(name), mtu(name),
// setMtu(name, bytes), up(name), joinBridge(bridge, name)
void DefineTap(Napi::Env env, Napi::Object exports);

}  // namespace tsvm
