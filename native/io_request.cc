#include "io_request.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace tsvm {

namespace {

// A file that answers EAGAIN for ever must not occupy the host for ever.
constexpr uint32_t kRetries = 1000;
// Direct I/O moves whole sectors, except where the file ends.
constexpr uint64_t kSector = 512;

}  // namespace

void IoRequest::Begin() {
  result = 0;
  done_ = 0;
  first_ = 0;
  retries_ = 0;
}

int IoRequest::mode() const {
  switch (operation) {
    case IoOperation::kPunch:
      return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    case IoOperation::kZero:
      return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    default:
      return FALLOC_FL_KEEP_SIZE;
  }
}

unsigned IoRequest::next_count() const {
  return static_cast<unsigned>(std::min<size_t>(pieces.size() - first_, IOV_MAX));
}

bool IoRequest::Advance(int64_t got) {
  if ((got == -EINTR || got == -EAGAIN) && retries_++ < kRetries) return false;
  // A file's end within a sector: some file systems refuse to go on from there with direct I/O instead of giving 0.
  if (got == -EINVAL && operation == IoOperation::kRead && done_ % kSector != 0) got = 0;
  if (got < 0 || !transfers()) {
    result = got;
    return true;
  }
  done_ += static_cast<uint64_t>(got);
  result = static_cast<int64_t>(done_);
  if (got == 0 || done_ >= length) return true;
  retries_ = 0;
  for (auto left = static_cast<uint64_t>(got); left > 0;) {
    iovec& piece = pieces[first_];
    const size_t here = std::min<uint64_t>(left, piece.iov_len);
    piece.iov_base = static_cast<uint8_t*>(piece.iov_base) + here;
    piece.iov_len -= here;
    left -= here;
    if (piece.iov_len == 0) first_++;
  }
  return false;
}

int64_t IoRequest::Perform() {
  const auto at = static_cast<off_t>(position());
  int64_t got;
  switch (operation) {
    case IoOperation::kRead:
      got = preadv(fd, next(), static_cast<int>(next_count()), at);
      break;
    case IoOperation::kWrite:
      got = pwritev(fd, next(), static_cast<int>(next_count()), at);
      break;
    case IoOperation::kAppend:
      got = pwritev2(fd, next(), static_cast<int>(next_count()), at, RWF_APPEND);
      break;
    case IoOperation::kSync:
      got = fdatasync(fd);
      break;
    default:
      got = fallocate(fd, mode(), at, static_cast<off_t>(length));
  }
  return got < 0 ? -errno : got;
}

}  // namespace tsvm
