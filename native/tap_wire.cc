// Frames through a tap: one a system call, with the header in which Linux tells what is left to do.
#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "frame_wire.h"

namespace tsvm {

namespace {

constexpr uint32_t kLeastFrame = 14;
// Frames of one receive call.
constexpr uint32_t kTurn = 1024;
constexpr uint32_t kWhole = kMaxFrame + sizeof(VnetHeader);
// What frames that the kernel has not put together fit into. A call that offers memory for more takes longer with each
// piece of it, so that it is offered where such frames have come of late: so many frames ago.
constexpr uint32_t kCommon = 2048;
constexpr uint32_t kOfLate = 256;

class TapWire : public FrameWire {
 public:
  TapWire(Fd fd, FrameArea* area, const FrameMemory* memory, const FrameSettings* settings)
      : FrameWire(std::move(fd), area, memory, settings), spill_(new uint8_t[kWhole]) {}

  // A queue that the kernel was told not to use has an error for as long.
  bool TellsEnd() const override { return false; }
  uint32_t Send(uint32_t first, uint32_t count) override;
  void Receive(FrameSink* sink) override;
  void Forget() override {
    held_ = 0;
    for (uint32_t i = 0; i < kTurn && read(fd_.get(), spill_.get(), kWhole) >= 0; i++) continue;
  }

 private:
  enum class Sent { kDone, kBlocked, kEnded };

  Sent SendOne(const FrameRecord& record);
  bool DeliverHeld(FrameSink* sink);

  std::vector<iovec> found_;
  std::vector<iovec> pieces_;
  // what does not fit the buffers that there are; then a frame that waits for more of them
  std::unique_ptr<uint8_t[]> spill_;
  uint32_t held_ = 0;
  // how many frames more have memory for the largest
  uint32_t expect_large_ = 0;
};

uint32_t TapWire::Send(uint32_t first, uint32_t count) {
  Blocked(false);
  for (uint32_t i = 0; i < count; i++) {
    switch (SendOne(area_->tx[first + i])) {
      case Sent::kDone:
        break;
      case Sent::kBlocked:
        Blocked(true);
        return i;
      case Sent::kEnded:
        area_->counters.tx_dropped += count - i;
        return count;
    }
  }
  return count;
}

TapWire::Sent TapWire::SendOne(const FrameRecord& record) {
  FrameCounters& counters = area_->counters;
  found_.clear();
  uint64_t total = 0;
  VnetHeader header{};
  const bool resolved = memory_->Resolve(record, area_->tx_pieces, &found_, &total);
  const uint32_t before = settings_->header_size();
  if (!resolved || total < before + kLeastFrame || total > before + kMaxFrame) {
    counters.tx_refused++;
    return Sent::kDone;
  }
  const auto length = static_cast<uint32_t>(total) - before;
  if (before > 0) {
    PieceReader(found_.data(), found_.size()).Read(&header, sizeof header);
    const int asked = CheckVnetHeader(&header, length);
    if (asked < 0 || (static_cast<uint32_t>(asked) & ~settings_->host_offloads) != 0) {
      counters.tx_refused++;
      return Sent::kDone;
    }
    header.flags &= kNeedsChecksum;
    header.num_buffers = 0;
  }
  pieces_.clear();
  pieces_.push_back({&header, sizeof header});
  size_t skip = before;
  for (const iovec& piece : found_) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    pieces_.push_back({static_cast<uint8_t*>(piece.iov_base) + skip, piece.iov_len - skip});
    skip = 0;
  }
  // More pieces than a system call takes: the last ones are copied together.
  std::vector<uint8_t> rest;
  if (pieces_.size() > IOV_MAX) {
    for (size_t i = IOV_MAX - 1; i < pieces_.size(); i++) {
      const auto* base = static_cast<const uint8_t*>(pieces_[i].iov_base);
      rest.insert(rest.end(), base, base + pieces_[i].iov_len);
    }
    pieces_.resize(IOV_MAX - 1);
    pieces_.push_back({rest.data(), rest.size()});
  }
  ssize_t got;
  do {
    got = writev(fd_.get(), pieces_.data(), static_cast<int>(pieces_.size()));
  } while (got < 0 && errno == EINTR);
  if (got >= 0) {
    counters.tx_frames++;
    counters.tx_bytes += length;
    return Sent::kDone;
  }
  switch (errno) {
    case EAGAIN:
      return Sent::kBlocked;
    case EINVAL:
      // the kernel's own look at the headers
      counters.tx_refused++;
      return Sent::kDone;
    case EBADFD:
    case ENODEV:
    case EBADF:
      End(errno);
      return Sent::kEnded;
    default:
      // EIO: the interface is down. ENOMEM, ENOBUFS: as a wire that is too busy.
      counters.tx_dropped++;
      return Sent::kDone;
  }
}

bool TapWire::DeliverHeld(FrameSink* sink) {
  if (held_ == 0) return true;
  VnetHeader header;
  std::memcpy(&header, spill_.get(), sizeof header);
  const auto result = sink->Deliver(spill_.get() + sizeof header, held_ - sizeof header, header);
  if (result == FrameSink::Result::kStarved) return false;
  held_ = 0;
  return true;
}

void TapWire::Receive(FrameSink* sink) {
  Ends(ReceiveEnd::kDrained);
  for (uint32_t turn = 0; turn < kTurn; turn++) {
    if (!DeliverHeld(sink)) {
      Ends(ReceiveEnd::kStarved);
      return;
    }
    uint64_t room = 0;
    std::vector<iovec>* offer = sink->Offer(expect_large_ > 0 ? kWhole : kCommon, &room);
    if (offer->empty()) {
      Ends(ReceiveEnd::kStarved);
      return;
    }
    // Memory that has no header gets the frame by way of ours.
    const bool direct = settings_->memory_header && offer->size() < IOV_MAX;
    if (!direct) {
      offer->clear();
      room = 0;
    }
    offer->push_back({spill_.get(), kWhole});
    ssize_t got;
    do {
      got = readv(fd_.get(), offer->data(), static_cast<int>(offer->size()));
    } while (got < 0 && errno == EINTR);
    offer->pop_back();
    if (got < 0) {
      if (errno != EAGAIN) End(errno);
      return;
    }
    const auto length = static_cast<uint32_t>(got);
    if (length < sizeof(VnetHeader)) continue;
    if (length > kCommon) {
      expect_large_ = kOfLate;
    } else if (expect_large_ > 0) {
      expect_large_--;
    }
    if (length <= room) {
      sink->Fill(length);
      continue;
    }
    if ((direct && !settings_->mergeable) || length > kWhole) {
      area_->counters.rx_dropped++;
      continue;
    }
    // The beginning lies in buffers that are not enough: it waits, as a whole, until there are more.
    std::memmove(spill_.get() + room, spill_.get(), length - room);
    PieceReader(offer->data(), offer->size()).Read(spill_.get(), static_cast<uint32_t>(room));
    held_ = length;
  }
  Ends(ReceiveEnd::kMore);
}

}  // namespace

std::unique_ptr<FrameWire> CreateTapWire(Fd fd, FrameArea* area, const FrameMemory* memory,
                                         const FrameSettings* settings) {
  return std::make_unique<TapWire>(std::move(fd), area, memory, settings);
}

}  // namespace tsvm
