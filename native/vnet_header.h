// The header that goes before a frame where checksums and segmentation are left to others: Linux's struct
// virtio_net_hdr_v1, which taps speak, and what it asks for done in software.
#pragma once

#include <sys/uio.h>

#include <cstdint>

namespace tsvm {

struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;
};
static_assert(sizeof(VnetHeader) == 12, "as it goes over the wire");

// Flags.
constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kDataValid = 2;
// Kinds of segmentation.
constexpr uint8_t kGsoNone = 0;
constexpr uint8_t kGsoTcp4 = 1;
constexpr uint8_t kGsoTcp6 = 4;
constexpr uint8_t kGsoEcn = 0x80;

// What one side may ask of the other. src/kvm/frame-port.ts has the same numbers.
enum Offload : uint32_t {
  kOffloadChecksum = 1,
  kOffloadTso4 = 2,
  kOffloadTso6 = 4,
  kOffloadEcn = 8,
  kOffloadAll = 15,
};

// Checks a header against a frame of `length` bytes and drops what has no meaning in it. Returns what it asks for, a
// set of Offload, or -1 where it makes no sense.
int CheckVnetHeader(VnetHeader* header, uint32_t length);

// Pieces of memory that are read one after the other.
class PieceReader {
 public:
  PieceReader(const iovec* pieces, size_t count) : pieces_(pieces), end_(pieces + count) {}
  // Returns how many bytes there were.
  uint32_t Read(void* target, uint32_t length);

 private:
  const iovec* pieces_;
  const iovec* end_;
  size_t done_ = 0;
};

// Fills in the checksum that a checked header asks for.
void CompleteChecksum(uint8_t* frame, uint32_t length, const VnetHeader& header);

// Cuts one TCP frame into those that go over the wire (the headers repeated, numbers and checksums put right).
class Segmenter {
 public:
  // `source` gives the frame's bytes, and the payload's from then on. False where its headers make no sense.
  bool Begin(PieceReader source, uint32_t length, const VnetHeader& header);
  uint32_t count() const { return count_; }
  // Of the segments together.
  uint32_t total() const { return count_ * header_length_ + payload_; }
  // Writes the next segment; returns its length.
  uint32_t Next(uint8_t* target);

 private:
  static constexpr uint32_t kMaxHeader = 256;

  PieceReader source_{nullptr, 0};
  uint8_t header_[kMaxHeader];
  uint32_t header_length_ = 0;
  uint32_t payload_ = 0;
  uint32_t size_ = 0;
  uint32_t count_ = 0;
  uint32_t at_ = 0;
  uint32_t ip_ = 0;
  uint32_t tcp_ = 0;
  bool ip6_ = false;
};

}  // namespace tsvm
