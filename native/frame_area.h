// The memory that a frame port shares with JavaScript: lists of frames to send and of buffers to receive into, the
// receive filter and counters. src/kvm/frame-area.ts has the same layout.
#pragma once

#include <cstdint>

namespace tsvm {

constexpr uint32_t kFrameRecords = 1024;
constexpr uint32_t kFramePieces = 8192;
constexpr uint32_t kFrameSpans = 1024;
// Longest frame without its length or offload header: 64 KiB of payload with what goes before it.
constexpr uint32_t kMaxFrame = 69632;
constexpr uint32_t kFilterAddresses = 128;

struct FrameCounters {
  double rx_frames;
  double rx_bytes;
  // not for this station, by the filter
  double rx_filtered;
  // larger than the buffers, or not a frame
  double rx_dropped;
  double tx_frames;
  double tx_bytes;
  // with an offload header that makes no sense, or too long or short
  double tx_refused;
  // not taken by the host: nothing is connected, or an interface is down
  double tx_dropped;
};

// Why a receive call ended.
enum class ReceiveEnd : int32_t {
  // nothing is there for now
  kDrained,
  // there is more, and no buffer for it
  kStarved,
  // there may be more: others have their turn
  kMore,
};

struct FrameStatus {
  int32_t receive_end;
  // the host takes no more for now
  int32_t blocked;
  // the connection has ended, for this reason: an errno, 0 for its end, or -1 for a frame that no peer may send
  int32_t ended;
  int32_t end_code;
};

struct FrameFilter {
  enum Flag : uint32_t {
    kPromiscuous = 1,
    kAllMulticast = 2,
    kAllUnicast = 4,
    kNoMulticast = 8,
    kNoUnicast = 16,
    kNoBroadcast = 32,
    kVlans = 64,
  };
  uint32_t flags;
  uint16_t unicast;
  uint16_t multicast;
  uint8_t station[8];
  // `unicast` addresses, then `multicast` ones
  uint8_t addresses[kFilterAddresses][8];
  uint32_t vlans[128];
};

// A frame to send, or buffers that a received one may fill.
struct FrameRecord {
  uint32_t first_piece;
  uint32_t pieces;
  // received: bytes that were written
  uint32_t written;
  // JavaScript's own
  uint32_t cookie;
};

struct FramePiece {
  double offset;
  int32_t buffer;
  uint32_t length;
};

// A frame in the staging buffer.
struct FrameSpan {
  uint32_t offset;
  uint32_t length;
};

struct FrameArea {
  FrameCounters counters;
  FrameStatus status;
  FrameFilter filter;
  FrameSpan spans[kFrameSpans];
  FrameRecord tx[kFrameRecords];
  FrameRecord rx[kFrameRecords];
  FramePiece tx_pieces[kFramePieces];
  FramePiece rx_pieces[kFramePieces];
};
static_assert(sizeof(FrameFilter) == 16 + 8 * kFilterAddresses + 512, "src/kvm/frame-area.ts has the same layout");
static_assert(sizeof(FrameArea) == 64 + 16 + sizeof(FrameFilter) + 8 * kFrameSpans + 2 * 16 * kFrameRecords +
                                       2 * 16 * kFramePieces,
              "no gaps");

}  // namespace tsvm
