// Where received frames go: the buffers that JavaScript has posted, one or several a frame.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "frame_area.h"
#include "frame_memory.h"
#include "vnet_header.h"

namespace tsvm {

struct FrameSettings {
  // frames in memory begin with a VnetHeader; so do those of the host
  bool memory_header = false;
  bool wire_header = false;
  // a received frame may go over several records
  bool mergeable = false;
  // what frames to be sent may ask for, and what received ones may leave undone: sets of Offload
  uint32_t host_offloads = 0;
  uint32_t guest_offloads = 0;
  // frames to addresses that a host has for itself are not sent
  bool refuse_loopback = false;

  uint32_t header_size() const { return memory_header ? sizeof(VnetHeader) : 0; }
};

class FrameSink {
 public:
  enum class Result { kTaken, kStarved };

  FrameSink(FrameArea* area, const FrameMemory* memory, const FrameSettings* settings)
      : area_(area), memory_(memory), settings_(settings) {}

  // Takes `count` records from `first` on, for one call.
  void Begin(uint32_t first, uint32_t count);
  // Records that are full.
  uint32_t used() const { return used_; }

  // A whole frame: goes through the filter and into the next records. Taken is also what is dropped.
  Result Deliver(const uint8_t* frame, uint32_t length, const VnetHeader& header);

  // For those who fill the records themselves: the pieces of as many as `wanted` bytes need, or of all there are. The
  // vector's end is the caller's to add to until Fill() or the next call.
  std::vector<iovec>* Offer(uint32_t wanted, uint64_t* room);
  // Their first `length` bytes hold a frame with its header: takes it, or not, as the filter says.
  void Fill(uint32_t length);
  bool Accepts(const uint8_t* frame, uint32_t length) const;

 private:
  // How many records hold `wanted` bytes, in which `room` bytes are; 0 where there are too few.
  uint32_t Span(uint64_t wanted, uint64_t* room);
  void Resolve();
  void Take(uint32_t records, uint32_t length);

  struct Resolved {
    uint32_t first;
    uint32_t pieces;
    uint64_t room;
  };

  FrameArea* area_;
  const FrameMemory* memory_;
  const FrameSettings* settings_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
  uint32_t used_ = 0;
  std::vector<Resolved> resolved_;
  std::vector<iovec> pieces_;
  std::vector<iovec> offer_;
  uint32_t offered_ = 0;
};

}  // namespace tsvm
