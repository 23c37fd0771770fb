// One request to a file as both engines carry it out: what is to be done, and how much of that is.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

namespace tsvm {

// src/kvm/io-ring.ts has the same numbers.
enum class IoOperation : int32_t { kRead, kWrite, kSync, kPunch, kZero, kAllocate, kAppend };
constexpr int32_t kIoOperations = 7;

struct IoRequest {
  IoOperation operation = IoOperation::kSync;
  int fd = -1;
  // both in bytes; of a transfer, the length is that of the pieces
  uint64_t offset = 0;
  uint64_t length = 0;

  // Memory of a read or write. It stays where it is until the request is over: the kernel may read it late.
  std::vector<iovec> pieces;
  // By index, the buffers that the pieces lie in, one for each.
  std::vector<uint32_t> buffers;

  // 0 or bytes moved, or a negative errno
  int64_t result = 0;
  // From submission until the result lies in the area.
  bool busy = false;

  // Made ready to be carried out from its start.
  void Begin();

  bool transfers() const {
    return operation == IoOperation::kRead || operation == IoOperation::kWrite || operation == IoOperation::kAppend;
  }
  // The mode of an fallocate.
  int mode() const;
  // What is left of a transfer, as much as one system call takes.
  uint64_t position() const { return offset + done_; }
  iovec* next() { return pieces.data() + first_; }
  unsigned next_count() const;
  // The host had no room or no time, again: it has to be made to wait.
  bool must_wait() const { return retries_ > 0; }

  // Takes in what one system call gave (a negative errno, 0, or bytes moved). True: the request is over.
  bool Advance(int64_t got);
  // The same without another try.
  void Fail(int error) { result = -error; }

  // Performs the next system call, and returns what it gave.
  int64_t Perform();

 private:
  uint64_t done_ = 0;
  size_t first_ = 0;
  uint32_t retries_ = 0;
};

}  // namespace tsvm
