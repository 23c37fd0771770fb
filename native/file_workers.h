// Threads that carry file calls out, for those that may take long.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "fd.h"

namespace tsvm {

// All methods are called on the JavaScript thread.
class FileWorkers {
 public:
  // `carry` is called on a worker's thread with the number of a call.
  FileWorkers(Fd wake, std::function<void(uint32_t)> carry) : carry_(std::move(carry)), wake_(std::move(wake)) {}
  ~FileWorkers() { Shutdown(); }

  // Readable while there are calls to be reaped.
  int wake_fd() const { return wake_.get(); }
  void Start(uint32_t call);
  // Appends the calls that are over.
  void Reap(std::vector<uint32_t>* over);
  // Returns when all calls are over.
  void Shutdown();

 private:
  bool AddThread();
  void Main();
  void Done(uint32_t call);

  const std::function<void(uint32_t)> carry_;
  Fd wake_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<uint32_t> queue_;
  std::vector<uint32_t> done_;
  size_t idle_ = 0;
  bool ending_ = false;
};

}  // namespace tsvm
