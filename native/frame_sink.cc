#include "frame_sink.h"

#include <algorithm>
#include <cstring>

namespace tsvm {

namespace {

constexpr uint32_t kLeastFrame = 14;

bool SameAddress(const uint8_t* one, const uint8_t* other) { return std::memcmp(one, other, 6) == 0; }

// Copies over several pieces; returns where it stands.
struct PieceWriter {
  const iovec* piece;
  size_t done = 0;

  void Write(const void* source, size_t length) {
    const auto* from = static_cast<const uint8_t*>(source);
    while (length > 0) {
      const size_t here = std::min(length, piece->iov_len - done);
      std::memcpy(static_cast<uint8_t*>(piece->iov_base) + done, from, here);
      from += here;
      length -= here;
      done += here;
      if (done == piece->iov_len) {
        piece++;
        done = 0;
      }
    }
  }
};

}  // namespace

void FrameSink::Begin(uint32_t first, uint32_t count) {
  first_ = first;
  count_ = count;
  used_ = 0;
  resolved_.clear();
  pieces_.clear();
}

void FrameSink::Resolve() {
  FrameRecord& record = area_->rx[first_ + resolved_.size()];
  const auto first = static_cast<uint32_t>(pieces_.size());
  uint64_t room = 0;
  // Buffers that are not there have room for nothing.
  if (!memory_->Resolve(record, area_->rx_pieces, &pieces_, &room)) {
    pieces_.resize(first);
    room = 0;
  }
  record.written = 0;
  resolved_.push_back({first, static_cast<uint32_t>(pieces_.size()) - first, room});
}

uint32_t FrameSink::Span(uint64_t wanted, uint64_t* room) {
  *room = 0;
  const uint32_t most = settings_->mergeable ? count_ - used_ : std::min(1u, count_ - used_);
  for (uint32_t records = 1; records <= most; records++) {
    const uint32_t at = used_ + records - 1;
    if (at == resolved_.size()) Resolve();
    *room += resolved_[at].room;
    if (*room >= wanted) return records;
  }
  return 0;
}

void FrameSink::Take(uint32_t records, uint32_t length) {
  for (uint32_t i = 0; i < records; i++) {
    const auto here = static_cast<uint32_t>(std::min<uint64_t>(length, resolved_[used_].room));
    area_->rx[first_ + used_].written = here;
    length -= here;
    used_++;
  }
}

FrameSink::Result FrameSink::Deliver(const uint8_t* frame, uint32_t length, const VnetHeader& header) {
  if (length < kLeastFrame) {
    area_->counters.rx_dropped++;
    return Result::kTaken;
  }
  if (!Accepts(frame, length)) {
    area_->counters.rx_filtered++;
    return Result::kTaken;
  }
  if (used_ == count_) return Result::kStarved;
  uint64_t room;
  const uint32_t wanted = length + settings_->header_size();
  const uint32_t records = Span(wanted, &room);
  if (records == 0) {
    if (settings_->mergeable) return Result::kStarved;
    area_->counters.rx_dropped++;
    return Result::kTaken;
  }
  PieceWriter writer{pieces_.data() + resolved_[used_].first};
  if (settings_->memory_header) {
    VnetHeader own = header;
    own.num_buffers = static_cast<uint16_t>(records);
    writer.Write(&own, sizeof own);
  }
  writer.Write(frame, length);
  Take(records, wanted);
  area_->counters.rx_frames++;
  area_->counters.rx_bytes += length;
  return Result::kTaken;
}

std::vector<iovec>* FrameSink::Offer(uint32_t wanted, uint64_t* room) {
  Span(wanted, room);
  offer_.clear();
  if (used_ == count_) return &offer_;
  const uint32_t last = settings_->mergeable ? static_cast<uint32_t>(resolved_.size()) : used_ + 1;
  uint64_t sum = 0;
  for (uint32_t i = used_; i < last && sum < wanted; i++) {
    const auto from = pieces_.begin() + resolved_[i].first;
    offer_.insert(offer_.end(), from, from + resolved_[i].pieces);
    sum += resolved_[i].room;
  }
  *room = sum;
  return &offer_;
}

void FrameSink::Fill(uint32_t length) {
  uint8_t head[sizeof(VnetHeader) + 18];
  const uint32_t header = settings_->header_size();
  PieceReader reader(offer_.data(), offer_.size());
  const uint32_t got = reader.Read(head, std::min<uint32_t>(length, header + 18));
  if (got < header + kLeastFrame) {
    area_->counters.rx_dropped++;
    return;
  }
  if (!Accepts(head + header, got - header)) {
    area_->counters.rx_filtered++;
    return;
  }
  uint64_t room;
  const uint32_t records = Span(length, &room);
  if (settings_->memory_header) {
    const auto count = static_cast<uint16_t>(records);
    PieceWriter writer{pieces_.data() + resolved_[used_].first};
    std::memcpy(head + offsetof(VnetHeader, num_buffers), &count, sizeof count);
    writer.Write(head, sizeof(VnetHeader));
  }
  Take(records, length);
  area_->counters.rx_frames++;
  area_->counters.rx_bytes += length - header;
}

bool FrameSink::Accepts(const uint8_t* frame, uint32_t length) const {
  const FrameFilter& filter = area_->filter;
  const uint32_t flags = filter.flags;
  if ((flags & FrameFilter::kPromiscuous) != 0) return true;
  if ((flags & FrameFilter::kVlans) != 0 && length >= 18 && frame[12] == 0x81 && frame[13] == 0) {
    const uint32_t vlan = (frame[14] & 15u) << 8 | frame[15];
    // 0 is a priority without a VLAN.
    if (vlan != 0 && (filter.vlans[vlan >> 5] >> (vlan & 31) & 1) == 0) return false;
  }
  const uint32_t unicast = std::min<uint32_t>(filter.unicast, kFilterAddresses);
  const uint32_t multicast = std::min<uint32_t>(filter.multicast, kFilterAddresses - unicast);
  uint32_t from = 0, to = unicast;
  if ((frame[0] & 1) != 0) {
    static const uint8_t kBroadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (SameAddress(frame, kBroadcast)) return (flags & FrameFilter::kNoBroadcast) == 0;
    if ((flags & FrameFilter::kNoMulticast) != 0) return false;
    if ((flags & FrameFilter::kAllMulticast) != 0) return true;
    from = unicast;
    to = unicast + multicast;
  } else {
    if ((flags & FrameFilter::kNoUnicast) != 0) return false;
    if ((flags & FrameFilter::kAllUnicast) != 0 || SameAddress(frame, filter.station)) return true;
  }
  for (uint32_t i = from; i < to; i++) {
    if (SameAddress(frame, filter.addresses[i])) return true;
  }
  return false;
}

}  // namespace tsvm
