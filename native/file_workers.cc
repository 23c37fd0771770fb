#include "file_workers.h"

#include <pthread.h>

#include <csignal>
#include <system_error>

namespace tsvm {

namespace {

// A host that answers late is asked several things at a time.
constexpr size_t kThreads = 4;

}  // namespace

void FileWorkers::Start(uint32_t call) {
  bool wanted = false;
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(call);
    wanted = queue_.size() > idle_;
    work_.notify_one();
  }
  if (wanted && threads_.size() < kThreads) AddThread();
  if (!threads_.empty()) return;
  // A host that gives no thread at all: rather late than never.
  std::lock_guard lock(mutex_);
  queue_.pop_back();
  carry_(call);
  Done(call);
}

bool FileWorkers::AddThread() {
  // The process's signals are the main thread's; a thread inherits the mask it is created under.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  bool added = true;
  try {
    threads_.emplace_back([this] { Main(); });
    pthread_setname_np(threads_.back().native_handle(), "file-calls");
  } catch (const std::system_error&) {
    added = false;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return added;
}

void FileWorkers::Main() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (queue_.empty() && !ending_) {
      idle_++;
      work_.wait(lock);
      idle_--;
    }
    if (queue_.empty()) return;
    const uint32_t call = queue_.front();
    queue_.pop_front();
    lock.unlock();
    carry_(call);
    lock.lock();
    Done(call);
  }
}

// With the lock held.
void FileWorkers::Done(uint32_t call) {
  done_.push_back(call);
  if (done_.size() > 1) return;
  const uint64_t one = 1;
  // An eventfd's write can only fail when its counter is full, and then it is readable anyway.
  [[maybe_unused]] const ssize_t put = write(wake_.get(), &one, sizeof one);
}

void FileWorkers::Reap(std::vector<uint32_t>* over) {
  std::lock_guard lock(mutex_);
  if (done_.empty()) return;
  over->insert(over->end(), done_.begin(), done_.end());
  done_.clear();
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
}

void FileWorkers::Shutdown() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    work_.notify_all();
  }
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace tsvm
