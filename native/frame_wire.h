// The host's end of a frame port: a descriptor that frames go through, and how they look there.
#pragma once

#include <cstdint>
#include <memory>

#include "fd.h"
#include "frame_area.h"
#include "frame_memory.h"
#include "frame_sink.h"

namespace tsvm {

class FrameWire {
 public:
  FrameWire(Fd fd, FrameArea* area, const FrameMemory* memory, const FrameSettings* settings)
      : fd_(std::move(fd)), area_(area), memory_(memory), settings_(settings) {}
  virtual ~FrameWire() = default;
  FrameWire(const FrameWire&) = delete;
  FrameWire& operator=(const FrameWire&) = delete;

  int fd() const { return fd_.get(); }
  // Whether epoll tells of the other end's going; where not, it may tell of errors that are none.
  virtual bool TellsEnd() const { return true; }
  // Sends records of the area; returns how many of them are done with, sent or not. Tells in the status what is blocked
  // or over.
  virtual uint32_t Send(uint32_t first, uint32_t count) = 0;
  // Sends what is left of a frame that was begun; false where some of it is left still.
  virtual bool Flush() { return true; }
  // Fills the sink, and tells in the status why no more.
  virtual void Receive(FrameSink* sink) = 0;
  // Frames that have come and that nobody has taken are forgotten.
  virtual void Forget() = 0;

  // Only for streams: reads into the staging buffer without a sink. Puts the frames there into the area's spans;
  // returns how many.
  virtual uint32_t Fetch() { return 0; }
  // The first `count` of them are done with.
  virtual void Consume(uint32_t count) { static_cast<void>(count); }
  // Memory of the staging buffer, which JavaScript may hold for longer than the wire.
  virtual std::shared_ptr<uint8_t[]> staging() { return nullptr; }

 protected:
  // `code`: an errno, 0 for the end of the stream, -1 for a frame that no peer may send.
  void End(int code) {
    area_->status.ended = 1;
    area_->status.end_code = code;
  }
  void Blocked(bool blocked) { area_->status.blocked = blocked ? 1 : 0; }
  void Ends(ReceiveEnd end) { area_->status.receive_end = static_cast<int32_t>(end); }

  Fd fd_;
  FrameArea* area_;
  const FrameMemory* memory_;
  const FrameSettings* settings_;
};

constexpr uint32_t kStaging = 256 * 1024;

std::unique_ptr<FrameWire> CreateStreamWire(Fd fd, FrameArea* area, const FrameMemory* memory,
                                            const FrameSettings* settings);
std::unique_ptr<FrameWire> CreateTapWire(Fd fd, FrameArea* area, const FrameMemory* memory,
                                         const FrameSettings* settings);

}  // namespace tsvm
