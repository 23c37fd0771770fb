#include "channel.h"

#include <algorithm>

namespace tsvm {

bool Channel::Post(const PostedAccess& access, bool* waited, uint64_t* posted) {
  std::unique_lock lock(mutex_);
  *waited = posted_ - done_ >= kCapacity;
  progress_.wait(lock, [this] { return closed_ || posted_ - done_ < kCapacity; });
  if (closed_) return false;
  ring_[posted_++ % kCapacity] = access;
  *posted = posted_;
  WakeLocked();
  return true;
}

bool Channel::WaitForPosted(bool* waited, uint64_t count) {
  std::unique_lock lock(mutex_);
  const uint64_t target = std::min(count, posted_);
  *waited = done_ < target;
  progress_.wait(lock, [this, target] { return closed_ || done_ >= target; });
  return !closed_;
}

bool Channel::Trap(TrappedAccess* access) {
  std::unique_lock lock(mutex_);
  if (closed_) return false;
  traps_.push_back(access);
  WakeLocked();
  progress_.wait(lock, [this, access] { return closed_ || access->answered; });
  return access->answered;
}

void Channel::Emit(VcpuEvent event) {
  std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  WakeLocked();
}

Channel::Batch Channel::Take(PostedAccess* buffer) {
  std::lock_guard lock(mutex_);
  Batch batch;
  woken_ = false;
  batch.posted = static_cast<size_t>(posted_ - taken_);
  for (size_t i = 0; i < batch.posted; i++) buffer[i] = ring_[(taken_ + i) % kCapacity];
  taken_ = posted_;
  batch.traps.assign(traps_.begin(), traps_.end());
  traps_.clear();
  batch.events.assign(std::make_move_iterator(events_.begin()), std::make_move_iterator(events_.end()));
  events_.clear();
  return batch;
}

void Channel::PostedDone(size_t count) {
  std::lock_guard lock(mutex_);
  done_ += count;
  progress_.notify_all();
}

void Channel::Answer(TrappedAccess* access, uint32_t value) {
  std::lock_guard lock(mutex_);
  // After Close() the waiting thread, whose stack the access lies on, may be gone.
  if (closed_) return;
  access->value = value;
  access->answered = true;
  progress_.notify_all();
}

void Channel::Acknowledge() {
  uint64_t count;
  // Nothing to handle: an empty eventfd (EAGAIN) only means that there was no wake-up.
  [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
}

void Channel::Wake() {
  std::lock_guard lock(mutex_);
  WakeLocked();
}

void Channel::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  traps_.clear();
  wake_.Reset();
  progress_.notify_all();
}

void Channel::WakeLocked() {
  if (woken_ || closed_) return;
  woken_ = true;
  const uint64_t one = 1;
  // An eventfd's write can only fail when its counter is full, and then it is readable anyway.
  [[maybe_unused]] const ssize_t put = write(wake_.get(), &one, sizeof one);
}

}  // namespace tsvm
