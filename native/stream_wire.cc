// Frames over a unix stream socket, each after its length as four bytes in network order: what QEMU's `-netdev stream`
// and passt speak.
#include <arpa/inet.h>
#include <limits.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "frame_wire.h"
#include "loopback.h"

namespace tsvm {

namespace {

constexpr uint32_t kLength = 4;
constexpr uint32_t kLeastFrame = 14;
// One system call's worth, unless a single frame is more. A unix socket takes this as one piece or not at all, so that
// a peer never finds a part of a frame: passt of before 2024 drops all that it has read with it.
constexpr size_t kBatchBytes = 32 * 1024;
constexpr size_t kBatchPieces = IOV_MAX;
// More than a unix socket needs for one of its pieces, of up to 48 KiB, with what it is kept in.
constexpr int kPieceRoom = 96 * 1024;
// Room for what is computed: one frame of 64 KiB in segments, or many small ones.
constexpr size_t kScratch = 512 * 1024;
// A frame of more pieces is copied.
constexpr size_t kMaxPieces = 256;
// Frames of one receive call, if none of them is for this station.
constexpr uint32_t kTurn = 4096;
// Reads of one call that forgets what has come.
constexpr int kForgetReads = 16;

class StreamWire : public FrameWire {
 public:
  StreamWire(Fd fd, FrameArea* area, const FrameMemory* memory, const FrameSettings* settings)
      : FrameWire(std::move(fd), area, memory, settings),
        staging_(new uint8_t[kStaging]) {
    prefixes_.reserve(kFrameRecords);
    heads_.reserve(kFrameRecords);
    socklen_t size = sizeof room_;
    if (getsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUF, &room_, &size) < 0) room_ = 0;
  }

  uint32_t Send(uint32_t first, uint32_t count) override;
  bool Flush() override;
  void Receive(FrameSink* sink) override;
  void Forget() override;
  uint32_t Fetch() override;
  void Consume(uint32_t count) override;
  std::shared_ptr<uint8_t[]> staging() override { return staging_; }

 private:
  struct Prefix {
    uint32_t length;
    VnetHeader header;
  };
  // One record of the batch: where its bytes end, and how many frames they are.
  struct Appended {
    size_t end;
    uint32_t frames;
    uint32_t bytes;
    bool refused;
  };
  enum class Fit { kYes, kNextBatch, kRefused };

  void BeginBatch();
  Fit Append(const FrameRecord& record);
  Fit AppendComputed(uint32_t length, const VnetHeader& header, int asked, Appended* appended);
  Fit AppendDirect(uint32_t length, const VnetHeader& header, Appended* appended);
  // Sends the batch; returns how many of its records are done with.
  size_t Transmit();
  // Whether the socket takes all of the batch, which may be several pieces.
  bool HasRoom() const;
  void Keep(size_t from, size_t to);
  bool Read();
  bool Deliver(FrameSink* sink, const uint8_t* frame, uint32_t length);
  bool DeliverCut(FrameSink* sink);
  bool Frame(uint32_t* length);

  // ---- to the host
  std::vector<iovec> pieces_;
  std::vector<Appended> batch_;
  std::vector<Prefix> prefixes_;
  // copies of what is looked at, which the guest cannot change afterwards
  std::vector<FrameHead> heads_;
  std::vector<iovec> found_;
  size_t batch_bytes_ = 0;
  size_t scratch_used_ = 0;
  // bytes that the socket takes before somebody reads them; 0 where it does not tell
  int room_ = 0;
  // the rest of a frame whose beginning the socket has taken
  std::vector<uint8_t> pending_;
  size_t pending_sent_ = 0;

  // ---- from the host
  std::shared_ptr<uint8_t[]> staging_;
  uint32_t begin_ = 0;
  uint32_t end_ = 0;
  // segments of the frame at `begin_` that were not delivered yet
  std::vector<uint8_t> cut_;
  size_t cut_at_ = 0;

  std::unique_ptr<uint8_t[]> scratch_;
};

void StreamWire::BeginBatch() {
  pieces_.clear();
  batch_.clear();
  prefixes_.clear();
  heads_.clear();
  batch_bytes_ = 0;
  scratch_used_ = 0;
}

uint32_t StreamWire::Send(uint32_t first, uint32_t count) {
  if (!Flush()) return area_->status.ended ? count : 0;
  uint32_t done = 0;
  while (done < count) {
    BeginBatch();
    for (uint32_t i = done; i < count; i++) {
      const Fit fit = Append(area_->tx[first + i]);
      if (fit == Fit::kNextBatch) break;
      if (fit == Fit::kRefused) batch_.push_back({batch_bytes_, 0, 0, true});
    }
    const size_t sent = Transmit();
    done += static_cast<uint32_t>(sent);
    if (area_->status.ended) {
      area_->counters.tx_dropped += count - done;
      return count;
    }
    if (area_->status.blocked) return done;
  }
  return done;
}

StreamWire::Fit StreamWire::Append(const FrameRecord& record) {
  if (prefixes_.size() == kFrameRecords) return Fit::kNextBatch;
  found_.clear();
  uint64_t total = 0;
  const uint32_t before = settings_->header_size();
  if (!memory_->Resolve(record, area_->tx_pieces, &found_, &total)) return Fit::kRefused;
  if (total < before + kLeastFrame || total > before + kMaxFrame) return Fit::kRefused;
  const auto length = static_cast<uint32_t>(total) - before;
  if (batch_bytes_ > 0 && batch_bytes_ + kLength + total > kBatchBytes) return Fit::kNextBatch;
  VnetHeader header{};
  int asked = 0;
  if (settings_->memory_header) {
    PieceReader(found_.data(), found_.size()).Read(&header, sizeof header);
    asked = CheckVnetHeader(&header, length);
    if (asked < 0 || (static_cast<uint32_t>(asked) & ~settings_->host_offloads) != 0) return Fit::kRefused;
    // Nobody is told that a checksum was looked at, who has not looked.
    header.flags &= kNeedsChecksum;
    header.num_buffers = 0;
  }
  Appended appended{0, 1, length, false};
  const bool compute = !settings_->wire_header && asked != 0;
  const Fit fit = compute || found_.size() > kMaxPieces ? AppendComputed(length, header, asked, &appended)
                                                        : AppendDirect(length, header, &appended);
  if (fit != Fit::kYes) return fit;
  appended.end = batch_bytes_;
  batch_.push_back(appended);
  return Fit::kYes;
}

StreamWire::Fit StreamWire::AppendDirect(uint32_t length, const VnetHeader& header, Appended*) {
  if (pieces_.size() + found_.size() + 2 > kBatchPieces) return Fit::kNextBatch;
  uint32_t copied = 0;
  if (settings_->refuse_loopback) {
    PieceReader reader(found_.data(), found_.size());
    VnetHeader skipped;
    reader.Read(&skipped, settings_->header_size());
    heads_.emplace_back();
    copied = reader.Read(heads_.back().bytes, kFrameHead);
    if (IsForLoopback(heads_.back().bytes, copied)) return Fit::kRefused;
  }
  const uint32_t wire = settings_->wire_header && settings_->memory_header ? sizeof(VnetHeader) : 0;
  prefixes_.push_back({htonl(length + wire), header});
  pieces_.push_back({&prefixes_.back(), kLength + wire});
  if (copied > 0) pieces_.push_back({heads_.back().bytes, copied});
  size_t skip = settings_->header_size() + copied;
  for (const iovec& piece : found_) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    pieces_.push_back({static_cast<uint8_t*>(piece.iov_base) + skip, piece.iov_len - skip});
    skip = 0;
  }
  batch_bytes_ += kLength + wire + length;
  return Fit::kYes;
}

// A frame that is copied: into segments, with its checksum, or because it lies in too many pieces.
StreamWire::Fit StreamWire::AppendComputed(uint32_t length, const VnetHeader& header, int asked,
                                           Appended* appended) {
  if (pieces_.size() == kBatchPieces) return Fit::kNextBatch;
  if (!scratch_) scratch_.reset(new uint8_t[kScratch]);
  uint8_t* const start = scratch_.get() + scratch_used_;
  uint8_t* at = start;
  const size_t room = kScratch - scratch_used_;
  PieceReader reader(found_.data(), found_.size());
  VnetHeader skipped;
  reader.Read(&skipped, settings_->header_size());
  if (!settings_->wire_header && (asked & (kOffloadTso4 | kOffloadTso6)) != 0) {
    Segmenter segmenter;
    if (!segmenter.Begin(reader, length, header)) return Fit::kRefused;
    const size_t size = segmenter.total() + segmenter.count() * kLength;
    if (size > kScratch) return Fit::kRefused;
    if (size > room) return Fit::kNextBatch;
    for (uint32_t i = 0; i < segmenter.count(); i++) {
      const uint32_t here = segmenter.Next(at + kLength);
      if (settings_->refuse_loopback && IsForLoopback(at + kLength, here)) return Fit::kRefused;
      const uint32_t order = htonl(here);
      std::memcpy(at, &order, kLength);
      at += kLength + here;
    }
    appended->frames = segmenter.count();
    appended->bytes = segmenter.total();
  } else {
    const uint32_t wire = settings_->wire_header && settings_->memory_header ? sizeof(VnetHeader) : 0;
    if (kLength + wire + length > room) return Fit::kNextBatch;
    const uint32_t order = htonl(length + wire);
    std::memcpy(at, &order, kLength);
    std::memcpy(at + kLength, &header, wire);
    at += kLength + wire;
    const uint32_t got = reader.Read(at, length);
    std::memset(at + got, 0, length - got);
    if (settings_->refuse_loopback && IsForLoopback(at, length)) return Fit::kRefused;
    if (wire == 0 && asked != 0) CompleteChecksum(at, length, header);
    at += length;
  }
  const auto size = static_cast<size_t>(at - start);
  scratch_used_ += size;
  pieces_.push_back({start, size});
  batch_bytes_ += size;
  return Fit::kYes;
}

// SIOCOUTQ counts what the peer has not read, and a socket tells that it can be written to when that is a quarter of
// what it takes.
bool StreamWire::HasRoom() const {
  int used = 0;
  if (room_ == 0 || ioctl(fd_.get(), SIOCOUTQ, &used) < 0) return true;
  return used <= room_ / 4 || used + kPieceRoom < room_;
}

size_t StreamWire::Transmit() {
  size_t sent = 0;
  if (batch_bytes_ > 0 && (batch_bytes_ <= kBatchBytes || HasRoom())) {
    msghdr message{};
    message.msg_iov = pieces_.data();
    message.msg_iovlen = pieces_.size();
    ssize_t got;
    do {
      got = sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno != EAGAIN && errno != ENOBUFS) {
      End(errno);
      return 0;
    }
    sent = got < 0 ? 0 : static_cast<size_t>(got);
  }
  size_t done = 0;
  for (size_t begin = 0; done < batch_.size(); done++) {
    const Appended& frame = batch_[done];
    if (frame.refused) {
      area_->counters.tx_refused++;
      continue;
    }
    if (sent <= begin) break;
    if (sent < frame.end) Keep(sent, frame.end);
    area_->counters.tx_frames += frame.frames;
    area_->counters.tx_bytes += frame.bytes;
    begin = frame.end;
  }
  if (sent < batch_bytes_) Blocked(true);
  return done;
}

// Copies what the socket has not taken of a frame that it has begun with.
void StreamWire::Keep(size_t from, size_t to) {
  pending_.clear();
  pending_sent_ = 0;
  size_t at = 0;
  for (const iovec& piece : pieces_) {
    const size_t end = at + piece.iov_len;
    if (end > from && at < to) {
      const auto* base = static_cast<const uint8_t*>(piece.iov_base);
      pending_.insert(pending_.end(), base + (std::max(from, at) - at), base + (std::min(to, end) - at));
    }
    at = end;
  }
}

bool StreamWire::Flush() {
  while (pending_sent_ < pending_.size()) {
    const ssize_t got = send(fd_.get(), pending_.data() + pending_sent_, pending_.size() - pending_sent_,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
      Blocked(true);
      return false;
    }
    if (got < 0) {
      End(errno);
      return false;
    }
    pending_sent_ += static_cast<size_t>(got);
  }
  pending_.clear();
  pending_sent_ = 0;
  Blocked(false);
  return true;
}

// Reads once, behind what is there. Returns whether the socket may have more.
bool StreamWire::Read() {
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ > 0) {
    std::memmove(staging_.get(), staging_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const uint32_t room = kStaging - end_;
  if (room == 0) return true;
  ssize_t got;
  do {
    got = recv(fd_.get(), staging_.get() + end_, room, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got == 0) End(0);
  if (got < 0 && errno != EAGAIN) End(errno);
  if (got <= 0) return false;
  end_ += static_cast<uint32_t>(got);
  return static_cast<uint32_t>(got) == room;
}

// Whether a whole frame is there. Ends the connection where one that can never be is announced.
bool StreamWire::Frame(uint32_t* length) {
  if (end_ - begin_ < kLength) return false;
  uint32_t order;
  std::memcpy(&order, staging_.get() + begin_, kLength);
  *length = ntohl(order);
  const uint32_t wire = settings_->wire_header ? sizeof(VnetHeader) : 0;
  if (*length <= wire || *length > wire + kMaxFrame) {
    End(-1);
    return false;
  }
  return end_ - begin_ - kLength >= *length;
}

void StreamWire::Receive(FrameSink* sink) {
  Ends(ReceiveEnd::kDrained);
  bool more = true;
  for (uint32_t turn = 0; turn < kTurn; turn++) {
    if (!DeliverCut(sink)) {
      Ends(ReceiveEnd::kStarved);
      return;
    }
    uint32_t length;
    if (Frame(&length)) {
      if (!Deliver(sink, staging_.get() + begin_ + kLength, length)) {
        Ends(ReceiveEnd::kStarved);
        return;
      }
      begin_ += kLength + length;
      continue;
    }
    if (area_->status.ended || !more) return;
    const uint32_t had = end_ - begin_;
    more = Read();
    if (area_->status.ended || end_ - begin_ == had) return;
  }
  Ends(ReceiveEnd::kMore);
}

// False where there is no room for it.
bool StreamWire::Deliver(FrameSink* sink, const uint8_t* frame, uint32_t length) {
  VnetHeader header{};
  if (!settings_->wire_header || !settings_->memory_header) {
    return sink->Deliver(frame, length, header) == FrameSink::Result::kTaken;
  }
  std::memcpy(&header, frame, sizeof header);
  frame += sizeof header;
  length -= sizeof header;
  const int asked = CheckVnetHeader(&header, length);
  if (asked < 0) {
    area_->counters.rx_dropped++;
    return true;
  }
  const uint32_t undone = static_cast<uint32_t>(asked) & ~settings_->guest_offloads;
  if ((settings_->guest_offloads & kOffloadChecksum) == 0) header.flags = 0;
  if (undone == 0) return sink->Deliver(frame, length, header) == FrameSink::Result::kTaken;
  const bool cut = (asked & (kOffloadTso4 | kOffloadTso6)) != 0;
  if (!cut) {
    // The staging buffer is ours. A second try, once there is room, finds a frame with nothing left to do.
    uint8_t* const ours = staging_.get() + (frame - staging_.get());
    CompleteChecksum(ours, length, header);
    std::memset(ours - sizeof header, 0, sizeof header);
    return sink->Deliver(frame, length, VnetHeader{}) == FrameSink::Result::kTaken;
  }
  iovec piece{const_cast<uint8_t*>(frame), length};
  Segmenter segmenter;
  if (!segmenter.Begin(PieceReader(&piece, 1), length, header)) {
    area_->counters.rx_dropped++;
    return true;
  }
  cut_.resize(segmenter.total() + segmenter.count() * kLength);
  cut_at_ = 0;
  uint8_t* at = cut_.data();
  for (uint32_t i = 0; i < segmenter.count(); i++) {
    const uint32_t here = segmenter.Next(at + kLength);
    std::memcpy(at, &here, kLength);
    at += kLength + here;
  }
  return true;
}

bool StreamWire::DeliverCut(FrameSink* sink) {
  while (cut_at_ < cut_.size()) {
    uint32_t length;
    std::memcpy(&length, cut_.data() + cut_at_, kLength);
    if (sink->Deliver(cut_.data() + cut_at_ + kLength, length, VnetHeader{}) == FrameSink::Result::kStarved) {
      return false;
    }
    cut_at_ += kLength + length;
  }
  cut_.clear();
  cut_at_ = 0;
  return true;
}

void StreamWire::Forget() {
  cut_.clear();
  cut_at_ = 0;
  uint32_t length;
  // What lies in the socket has come too. Not for ever: its peer may be as quick as we are.
  for (int round = 0; round < kForgetReads; round++) {
    while (!area_->status.ended && Frame(&length)) begin_ += kLength + length;
    if (area_->status.ended || !Read()) break;
  }
  while (!area_->status.ended && Frame(&length)) begin_ += kLength + length;
}

uint32_t StreamWire::Fetch() {
  Ends(Read() ? ReceiveEnd::kMore : ReceiveEnd::kDrained);
  const uint32_t start = begin_;
  uint32_t count = 0, length;
  for (; count < kFrameSpans && Frame(&length); count++) {
    area_->spans[count] = {begin_ + kLength, length};
    begin_ += kLength + length;
  }
  begin_ = start;
  return count;
}

void StreamWire::Consume(uint32_t count) {
  uint32_t length;
  for (uint32_t i = 0; i < count && Frame(&length); i++) begin_ += kLength + length;
}

}  // namespace

std::unique_ptr<FrameWire> CreateStreamWire(Fd fd, FrameArea* area, const FrameMemory* memory,
                                            const FrameSettings* settings) {
  return std::make_unique<StreamWire>(std::move(fd), area, memory, settings);
}

}  // namespace tsvm
