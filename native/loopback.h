// Frames to addresses that mean the host itself to whoever opens sockets on a guest's behalf.
#pragma once

#include <cstdint>

namespace tsvm {

// Ethernet and IPv6 headers: the destination address is within.
constexpr uint32_t kFrameHead = 54;

struct FrameHead {
  uint8_t bytes[kFrameHead];
};

// 127.0.0.0/8, and 0.0.0.0/8, where Linux connects to itself (RFC 1122, 3.2.1.3); of IPv6 ::1, :: and the mapped IPv4
// addresses, which all are in ::/16 and have no use on a network (RFC 4291, 2.5; RFC 6890).
inline bool IsForLoopback(const uint8_t* frame, uint32_t length) {
  constexpr uint32_t kType = 12, kIp4Destination = 30, kIp6Destination = 38;
  if (length < kType + 2) return false;
  const uint32_t type = static_cast<uint32_t>(frame[kType]) << 8 | frame[kType + 1];
  if (type == 0x0800 && length > kIp4Destination) {
    return frame[kIp4Destination] == 127 || frame[kIp4Destination] == 0;
  }
  if (type == 0x86dd && length > kIp6Destination + 1) {
    return frame[kIp6Destination] == 0 && frame[kIp6Destination + 1] == 0;
  }
  return false;
}

}  // namespace tsvm
