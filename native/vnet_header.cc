#include "vnet_header.h"

#include <algorithm>
#include <cstring>

namespace tsvm {

namespace {

constexpr uint32_t kEthernet = 14;
constexpr uint32_t kTcpHeader = 20;
constexpr uint32_t kTcpChecksum = 16;
constexpr uint8_t kTcpFin = 0x01, kTcpPush = 0x08, kTcpCwr = 0x80;
constexpr uint8_t kProtocolTcp = 6;
// More segments of one frame than this are no traffic: they would be of 48 bytes or less.
constexpr uint32_t kMaxSegments = 1365;

uint16_t Load16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
void Store16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
uint32_t Load32(const uint8_t* at) { return uint32_t{Load16(at)} << 16 | Load16(at + 2); }
void Store32(uint8_t* at, uint32_t value) {
  Store16(at, value >> 16);
  Store16(at + 2, value & 0xffff);
}

// The sum of 16-bit words in the order of memory (RFC 1071: the byte order does not matter until the end).
uint64_t Sum(const uint8_t* data, size_t length) {
  uint64_t low = 0, high = 0;
  for (; length >= 16; data += 16, length -= 16) {
    uint64_t first, second;
    std::memcpy(&first, data, 8);
    std::memcpy(&second, data + 8, 8);
    low += (first & 0xffffffff) + (second & 0xffffffff);
    high += (first >> 32) + (second >> 32);
  }
  for (; length >= 2; data += 2, length -= 2) {
    uint16_t word;
    std::memcpy(&word, data, 2);
    low += word;
  }
  if (length > 0) low += *data;
  return (low & 0xffffffff) + (low >> 32) + (high & 0xffffffff) + (high >> 32);
}

// The ones' complement of a sum, in the order of memory.
uint16_t Fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  auto word = static_cast<uint32_t>((sum & 0xffff) + (sum >> 16));
  word = (word & 0xffff) + (word >> 16);
  return static_cast<uint16_t>(~word);
}

void StoreChecksum(uint8_t* at, uint16_t checksum) {
  // For UDP 0 says that there is none; the two are the same number (RFC 768).
  if (checksum == 0) checksum = 0xffff;
  std::memcpy(at, &checksum, 2);
}

}  // namespace

int CheckVnetHeader(VnetHeader* header, uint32_t length) {
  int asked = 0;
  const uint8_t gso = header->gso_type & static_cast<uint8_t>(~kGsoEcn);
  const bool checksum = (header->flags & kNeedsChecksum) != 0;
  if (checksum) {
    if (uint32_t{header->csum_start} + header->csum_offset + 2 > length) return -1;
    asked |= kOffloadChecksum;
  }
  switch (gso) {
    case kGsoNone:
      break;
    case kGsoTcp4:
      asked |= kOffloadTso4;
      break;
    case kGsoTcp6:
      asked |= kOffloadTso6;
      break;
    default:
      return -1;
  }
  if (gso != kGsoNone) {
    if (!checksum || header->gso_size == 0 || header->csum_offset != kTcpChecksum) return -1;
    if ((header->gso_type & kGsoEcn) != 0) asked |= kOffloadEcn;
  } else {
    header->gso_type = kGsoNone;
    header->gso_size = 0;
  }
  header->flags &= kNeedsChecksum | kDataValid;
  if (!checksum) {
    header->csum_start = 0;
    header->csum_offset = 0;
  }
  // A hint, and a wrong one at times. What it may be is all headers, at most the whole frame.
  const uint32_t least = checksum ? uint32_t{header->csum_start} + header->csum_offset + 2 : 0;
  if (gso == kGsoNone) header->hdr_len = 0;
  else if (header->hdr_len < least || header->hdr_len > length) header->hdr_len = static_cast<uint16_t>(least);
  return asked;
}

uint32_t PieceReader::Read(void* target, uint32_t length) {
  auto* to = static_cast<uint8_t*>(target);
  uint32_t got = 0;
  while (got < length && pieces_ != end_) {
    const size_t here = std::min<size_t>(length - got, pieces_->iov_len - done_);
    std::memcpy(to + got, static_cast<const uint8_t*>(pieces_->iov_base) + done_, here);
    got += static_cast<uint32_t>(here);
    done_ += here;
    if (done_ == pieces_->iov_len) {
      pieces_++;
      done_ = 0;
    }
  }
  return got;
}

void CompleteChecksum(uint8_t* frame, uint32_t length, const VnetHeader& header) {
  const uint16_t checksum = Fold(Sum(frame + header.csum_start, length - header.csum_start));
  StoreChecksum(frame + header.csum_start + header.csum_offset, checksum);
}

bool Segmenter::Begin(PieceReader source, uint32_t length, const VnetHeader& header) {
  ip6_ = (header.gso_type & ~kGsoEcn) == kGsoTcp6;
  tcp_ = header.csum_start;
  if (tcp_ + kTcpHeader > kMaxHeader || tcp_ + kTcpHeader > length) return false;
  if (source.Read(header_, tcp_ + kTcpHeader) != tcp_ + kTcpHeader) return false;
  ip_ = kEthernet;
  uint16_t type = Load16(header_ + 12);
  while ((type == 0x8100 || type == 0x88a8) && ip_ + 4 < tcp_) {
    type = Load16(header_ + ip_ + 2);
    ip_ += 4;
  }
  if (type != (ip6_ ? 0x86dd : 0x0800)) return false;
  const uint32_t least = ip6_ ? 40 : 20;
  if (ip_ + least > tcp_ || header_[ip_] >> 4 != (ip6_ ? 6 : 4)) return false;
  if (!ip6_ && (ip_ + 4u * (header_[ip_] & 15) != tcp_ || header_[ip_ + 9] != kProtocolTcp)) return false;

  const uint32_t options = 4u * (header_[tcp_ + 12] >> 4);
  header_length_ = tcp_ + options;
  if (options < kTcpHeader || header_length_ > kMaxHeader || header_length_ >= length) return false;
  const uint32_t rest = options - kTcpHeader;
  if (source.Read(header_ + tcp_ + kTcpHeader, rest) != rest) return false;
  payload_ = length - header_length_;
  size_ = header.gso_size;
  count_ = (payload_ + size_ - 1) / size_;
  at_ = 0;
  source_ = source;
  return count_ <= kMaxSegments && header_length_ - ip_ + std::min(size_, payload_) <= 0xffff;
}

uint32_t Segmenter::Next(uint8_t* target) {
  const uint32_t done = at_ * size_;
  const uint32_t size = std::min(size_, payload_ - done);
  const bool first = at_ == 0, last = ++at_ == count_;
  std::memcpy(target, header_, header_length_);
  // Less than asked for does not happen: the lengths were summed up from the same pieces.
  const uint32_t got = source_.Read(target + header_length_, size);
  std::memset(target + header_length_ + got, 0, size - got);
  uint8_t* ip = target + ip_;
  uint8_t* tcp = target + tcp_;
  const uint32_t segment = header_length_ - tcp_ + size;
  uint64_t pseudo;
  uint8_t words[4] = {0, kProtocolTcp};
  Store16(words + 2, segment);
  if (ip6_) {
    Store16(ip + 4, header_length_ - ip_ - 40 + size);
    pseudo = Sum(ip + 8, 32);
  } else {
    Store16(ip + 2, header_length_ - ip_ + size);
    Store16(ip + 4, Load16(ip + 4) + at_ - 1);
    Store16(ip + 10, 0);
    const uint16_t checksum = Fold(Sum(ip, tcp_ - ip_));
    std::memcpy(ip + 10, &checksum, 2);
    pseudo = Sum(ip + 12, 8);
  }
  Store32(tcp + 4, Load32(tcp + 4) + done);
  if (!last) tcp[13] &= static_cast<uint8_t>(~(kTcpFin | kTcpPush));
  if (!first) tcp[13] &= static_cast<uint8_t>(~kTcpCwr);
  Store16(tcp + kTcpChecksum, 0);
  StoreChecksum(tcp + kTcpChecksum, Fold(pseudo + Sum(words, 4) + Sum(tcp, segment)));
  return header_length_ + size;
}

}  // namespace tsvm
