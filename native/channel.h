// The way from vCPU threads to JavaScript: a bounded ring of posted accesses, accesses that wait for an answer, and
// events. What one vCPU posts is delivered before what it asks afterwards.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "fd.h"

namespace tsvm {

// As JavaScript reads it from the batch buffer: four 32-bit numbers.
struct PostedAccess {
  uint32_t region;
  uint32_t offset;
  // size in bytes; kConsumed is added for a read that is only announced, with the value that was read
  uint32_t kind;
  uint32_t value;
};
constexpr uint32_t kConsumed = 0x100;

// A vCPU's access that waits. Lives on the vCPU thread's stack.
struct TrappedAccess {
  uint32_t region;
  uint32_t offset;
  uint32_t size;
  bool is_write;
  uint32_t value;
  bool answered = false;
};

struct VcpuEvent {
  enum Kind : uint32_t { kPaused, kExit };
  uint32_t vcpu;
  Kind kind;
  // kExit: KVM_EXIT_* (or UINT32_MAX where KVM_RUN itself failed), errno, and the exit's part of struct kvm_run
  uint32_t reason;
  int error;
  std::vector<uint8_t> detail;
};

class Channel {
 public:
  static constexpr size_t kCapacity = 4096;

  // `wake` is an eventfd that the JavaScript thread watches.
  explicit Channel(Fd wake) : wake_(std::move(wake)) {}

  // ---- vCPU threads; false: the VM is being closed
  // `posted`: how many have been posted with this one.
  bool Post(const PostedAccess& access, bool* waited, uint64_t* posted);
  // Waits until so many of the posted accesses have been processed: by default all there are.
  bool WaitForPosted(bool* waited, uint64_t count = UINT64_MAX);
  bool Trap(TrappedAccess* access);
  void Emit(VcpuEvent event);

  // ---- JavaScript thread
  struct Batch {
    size_t posted = 0;
    std::vector<TrappedAccess*> traps;
    std::vector<VcpuEvent> events;
    bool empty() const { return posted == 0 && traps.empty() && events.empty(); }
  };
  // Takes what is there; posted accesses go to `buffer`, which holds kCapacity of them.
  Batch Take(PostedAccess* buffer);
  void PostedDone(size_t count);
  void Answer(TrappedAccess* access, uint32_t value);
  // Consumes the wake-up.
  void Acknowledge();
  void Wake();
  // Lets all who wait go, and gives the eventfd back: nobody may watch it any more.
  void Close();
  int wake_fd() const { return wake_.get(); }

 private:
  void WakeLocked();

  Fd wake_;
  std::mutex mutex_;
  std::condition_variable progress_;
  std::vector<PostedAccess> ring_ = std::vector<PostedAccess>(kCapacity);
  // counts since the start: taken <= posted, and posted - done_ <= kCapacity
  uint64_t posted_ = 0;
  uint64_t taken_ = 0;
  uint64_t done_ = 0;
  std::deque<TrappedAccess*> traps_;
  std::deque<VcpuEvent> events_;
  bool woken_ = false;
  bool closed_ = false;
};

}  // namespace tsvm
