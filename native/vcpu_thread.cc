#include "vcpu_thread.h"

#include <cerrno>
#include <csignal>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cstddef>

#include "vm_core.h"

namespace tsvm {

namespace {

// Real-time signals are nobody's by default; the first ones belong to libc's own threads.
int KickSignal() { return SIGRTMIN + 1; }

void InstallKickHandler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    // It only has to interrupt KVM_RUN: no SA_RESTART, nothing to do.
    action.sa_handler = [](int) {};
    sigaction(KickSignal(), &action, nullptr);
  });
}

}  // namespace

VcpuThread::VcpuThread(VmCore* core, uint32_t index, Fd fd, kvm_run* run, size_t run_size)
    : core_(core), index_(index), fd_(std::move(fd)), run_(run), run_size_(run_size) {
  InstallKickHandler();
  // The process's signals are the main thread's; a thread inherits the mask it is created under.
  sigset_t all, old;
  sigfillset(&all);
  sigdelset(&all, KickSignal());
  pthread_sigmask(SIG_SETMASK, &all, &old);
  try {
    thread_ = std::thread([this] { Main(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    Release();
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  pthread_setname_np(thread_.native_handle(), ("vcpu" + std::to_string(index)).c_str());
}

VcpuThread::~VcpuThread() {
  if (run_ == nullptr) return;
  RequestEnd();
  Join();
  Release();
}

bool VcpuThread::parked() {
  std::lock_guard lock(mutex_);
  return parked_;
}

void VcpuThread::Resume() {
  std::lock_guard lock(mutex_);
  if (wish_ == Wish::kEnd) return;
  // A pause that the thread has not seen yet is cancelled with it.
  __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_RELEASE);
  wish_ = Wish::kRun;
  // From here on, not from when the thread has woken: a pause that overtakes it is answered all the same, and nobody
  // touches registers meanwhile.
  parked_ = false;
  changed_.notify_all();
}

void VcpuThread::RequestPause() {
  std::lock_guard lock(mutex_);
  if (wish_ != Wish::kRun) return;
  wish_ = Wish::kPark;
  Kick();
}

void VcpuThread::RequestEnd() {
  std::lock_guard lock(mutex_);
  wish_ = Wish::kEnd;
  Kick();
  changed_.notify_all();
}

void VcpuThread::Join() {
  if (thread_.joinable()) thread_.join();
}

void VcpuThread::Release() {
  if (run_ != nullptr) munmap(run_, run_size_);
  run_ = nullptr;
  fd_.Reset();
}

// KVM looks at immediate_exit on entry, the signal ends a KVM_RUN that is under way: no gap between the two.
void VcpuThread::Kick() {
  __atomic_store_n(&run_->immediate_exit, 1, __ATOMIC_RELEASE);
  if (thread_.joinable()) pthread_kill(thread_.native_handle(), KickSignal());
}

void VcpuThread::Main() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return wish_ == Wish::kEnd || !parked_; });
      if (wish_ == Wish::kEnd) return;
    }
    if (!RunGuest()) return;
  }
}

void VcpuThread::Park() {
  std::lock_guard lock(mutex_);
  if (wish_ == Wish::kRun) wish_ = Wish::kPark;
  // Before the event is out: whoever gets it may read registers at once.
  parked_ = true;
}

bool VcpuThread::RunGuest() {
  for (;;) {
    if (ioctl(fd_.get(), KVM_RUN, 0) < 0) {
      if (errno == EINTR || errno == EAGAIN) {
        // Only here is the last instruction's I/O complete: KVM finishes it on entry, before immediate_exit.
        std::unique_lock lock(mutex_);
        if (wish_ == Wish::kEnd) return false;
        if (wish_ == Wish::kPark) {
          parked_ = true;
          lock.unlock();
          core_->channel.Emit({index_, VcpuEvent::kPaused, 0, 0, {}});
          return true;
        }
        continue;
      }
      const int error = errno;
      Park();
      core_->channel.Emit(ExitEvent(UINT32_MAX, error));
      return true;
    }
    const uint32_t reason = run_->exit_reason;
    if (reason < kReasons) exits_[reason].fetch_add(1, std::memory_order_relaxed);
    if (reason == KVM_EXIT_IO || reason == KVM_EXIT_MMIO) {
      if (!HandleIo()) return false;
      continue;
    }
    if (reason == KVM_EXIT_INTR || reason == KVM_EXIT_IRQ_WINDOW_OPEN) continue;
    Park();
    core_->channel.Emit(ExitEvent(reason, 0));
    return true;
  }
}

bool VcpuThread::HandleIo() {
  if (run_->exit_reason == KVM_EXIT_MMIO) {
    auto& mmio = run_->mmio;
    return core_->Access(Space::kMmio, mmio.phys_addr, mmio.len, mmio.data, mmio.is_write != 0);
  }
  const auto& io = run_->io;
  auto* data = reinterpret_cast<uint8_t*>(run_) + io.data_offset;
  // A string instruction moves `count` items through one port.
  for (uint32_t i = 0; i < io.count; i++) {
    if (!core_->Access(Space::kPio, io.port, io.size, data, io.direction == KVM_EXIT_IO_OUT)) return false;
    data += io.size;
  }
  return true;
}

VcpuEvent VcpuThread::ExitEvent(uint32_t reason, int error) const {
  const auto* bytes = reinterpret_cast<const uint8_t*>(run_);
  constexpr size_t kUnion = offsetof(kvm_run, hw), kUnionSize = 256;
  return {index_, VcpuEvent::kExit, reason, error, {bytes + kUnion, bytes + kUnion + kUnionSize}};
}

}  // namespace tsvm
