// Who carries requests out: the kernel's ring, or threads. All methods are called on the JavaScript thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "io_request.h"

namespace tsvm {

// Requests by slot. Neither the table nor a request in flight moves while an engine is there.
using IoTable = std::vector<IoRequest>;

class IoEngine {
 public:
  virtual ~IoEngine() = default;
  virtual const char* name() const = 0;
  // Readable while there may be something to reap.
  virtual int wake_fd() const = 0;
  // Takes a request, which has begun. It is carried out from the next Flush() on at the latest.
  virtual void Start(uint32_t slot) = 0;
  virtual void Flush() = 0;
  // Appends the slots of requests that are over.
  virtual void Reap(std::vector<uint32_t>* over) = 0;
  // Blocks until there may be something to reap. Only with something in flight.
  virtual void Wait() = 0;
  // Ends all that is in flight, one way or the other, and returns when nothing touches memory any more.
  virtual void Shutdown() = 0;
};

// A pool of threads, which start as they are needed.
std::unique_ptr<IoEngine> CreateThreadEngine(IoTable* requests, int* error);
// The kernel's io_uring; null where it does not work here, with the errno and the call that told so.
std::unique_ptr<IoEngine> CreateUringEngine(IoTable* requests, int* error, const char** request);
// Makes rings for engines to come, of that many requests each, for when io_uring_setup(2) is refused: rings that can do
// nothing but what an engine asks of them. Returns how many there are.
uint32_t ReserveRings(uint32_t count, uint32_t entries);

}  // namespace tsvm
