// A vCPU and the thread that runs it.
#pragma once

#include <linux/kvm.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "channel.h"
#include "fd.h"

namespace tsvm {

class VmCore;

class VcpuThread {
 public:
  // `run` is the mapped struct kvm_run of `fd`. The core outlives the thread: its Close() joins it.
  VcpuThread(VmCore* core, uint32_t index, Fd fd, kvm_run* run, size_t run_size);
  ~VcpuThread();
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  int fd() const { return fd_.get(); }
  // False while the thread is in, or on its way into, KVM_RUN: ioctls on the vCPU would wait for it.
  bool parked();
  void Resume();
  // Asks for a stop between two guest instructions, all I/O of the last one complete. An event tells when.
  void RequestPause();
  void RequestEnd();
  void Join();
  // After Join(): lets go of the descriptor and of struct kvm_run, each of which holds the kernel's whole VM.
  void Release();
  uint64_t ExitCount(uint32_t reason) const { return exits_[reason].load(std::memory_order_relaxed); }
  static constexpr uint32_t kReasons = 64;

 private:
  enum class Wish { kPark, kRun, kEnd };

  void Main();
  // Until the guest is to stop; true: go on parked, false: end the thread.
  bool RunGuest();
  bool HandleIo();
  void Kick();
  void Park();
  VcpuEvent ExitEvent(uint32_t reason, int error) const;

  VmCore* core_;
  uint32_t index_;
  Fd fd_;
  kvm_run* run_;
  size_t run_size_;
  std::array<std::atomic<uint64_t>, kReasons> exits_{};

  std::mutex mutex_;
  std::condition_variable changed_;
  Wish wish_ = Wish::kPark;
  bool parked_ = true;
  std::thread thread_;
};

}  // namespace tsvm
