#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "fd.h"
#include "io_engine.h"

namespace tsvm {

namespace {

// Enough to keep a disk busy; what the page cache answers needs no more than one or two.
constexpr size_t kThreads = 8;

class ThreadEngine final : public IoEngine {
 public:
  ThreadEngine(IoTable* requests, Fd wake) : requests_(*requests), wake_(std::move(wake)) {}
  ~ThreadEngine() override { Shutdown(); }

  const char* name() const override { return "threads"; }
  int wake_fd() const override { return wake_.get(); }
  void Start(uint32_t slot) override { started_.push_back(slot); }
  void Flush() override;
  void Reap(std::vector<uint32_t>* over) override;
  void Wait() override;
  void Shutdown() override;

 private:
  bool AddThread();
  void Main();
  void Carry(IoRequest* request);
  void Done(uint32_t slot);

  IoTable& requests_;
  Fd wake_;
  // JavaScript thread only
  std::vector<uint32_t> started_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable done_changed_;
  std::deque<uint32_t> queue_;
  std::vector<uint32_t> done_;
  size_t idle_ = 0;
  bool woken_ = false;
  bool ending_ = false;
  // whether done_ has something, to be asked without the lock
  std::atomic<bool> ready_{false};
};

void ThreadEngine::Flush() {
  if (started_.empty()) return;
  size_t threads = 0;
  {
    std::lock_guard lock(mutex_);
    queue_.insert(queue_.end(), started_.begin(), started_.end());
    const size_t wanted = queue_.size();
    for (size_t i = 0; i < std::min(idle_, wanted); i++) work_.notify_one();
    threads = wanted > idle_ ? wanted - idle_ : 0;
  }
  started_.clear();
  while (threads > 0 && threads_.size() < kThreads && AddThread()) threads--;
  if (!threads_.empty()) return;
  // A host that gives no thread at all: rather late than never.
  std::unique_lock lock(mutex_);
  while (!queue_.empty()) {
    const uint32_t slot = queue_.front();
    queue_.pop_front();
    Carry(&requests_[slot]);
    Done(slot);
  }
}

bool ThreadEngine::AddThread() {
  // The process's signals are the main thread's; a thread inherits the mask it is created under.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  try {
    threads_.emplace_back([this] { Main(); });
  } catch (const std::system_error&) {
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    return false;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  pthread_setname_np(threads_.back().native_handle(), "disk-io");
  return true;
}

void ThreadEngine::Main() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (queue_.empty() && !ending_) {
      idle_++;
      work_.wait(lock);
      idle_--;
    }
    if (ending_) return;
    const uint32_t slot = queue_.front();
    queue_.pop_front();
    lock.unlock();
    Carry(&requests_[slot]);
    lock.lock();
    Done(slot);
  }
}

void ThreadEngine::Carry(IoRequest* request) {
  while (!request->Advance(request->Perform())) {
    if (request->must_wait()) std::this_thread::yield();
  }
}

// With the lock held.
void ThreadEngine::Done(uint32_t slot) {
  done_.push_back(slot);
  ready_.store(true, std::memory_order_release);
  done_changed_.notify_one();
  if (woken_) return;
  woken_ = true;
  const uint64_t one = 1;
  // An eventfd's write can only fail when its counter is full, and then it is readable anyway.
  [[maybe_unused]] const ssize_t put = write(wake_.get(), &one, sizeof one);
}

void ThreadEngine::Reap(std::vector<uint32_t>* over) {
  if (!ready_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(mutex_);
  over->insert(over->end(), done_.begin(), done_.end());
  done_.clear();
  ready_.store(false, std::memory_order_relaxed);
  if (!woken_) return;
  woken_ = false;
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
}

void ThreadEngine::Wait() {
  std::unique_lock lock(mutex_);
  done_changed_.wait(lock, [this] { return !done_.empty(); });
}

void ThreadEngine::Shutdown() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    // What no thread has begun never happens.
    for (const uint32_t slot : queue_) {
      requests_[slot].Fail(ECANCELED);
      Done(slot);
    }
    queue_.clear();
    work_.notify_all();
  }
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace

std::unique_ptr<IoEngine> CreateThreadEngine(IoTable* requests, int* error) {
  Fd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) {
    *error = errno;
    return nullptr;
  }
  return std::make_unique<ThreadEngine>(requests, std::move(wake));
}

}  // namespace tsvm
