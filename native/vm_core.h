// A VM without its JavaScript face: what vCPU threads, JavaScript and finalizers share.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "bus.h"
#include "channel.h"
#include "fd.h"
#include "memory.h"

namespace tsvm {

class VcpuThread;

class VmCore {
 public:
  VmCore(Fd vm, Fd wake, size_t run_size);
  ~VmCore();
  VmCore(const VmCore&) = delete;
  VmCore& operator=(const VmCore&) = delete;

  // Ends and joins all vCPU threads, then lets go of descriptors and memory. JavaScript thread only.
  void Close();
  bool closed() const { return closed_; }
  int fd() const { return vm_.get(); }
  size_t run_size() const { return run_size_; }

  // One guest access, in the pieces that the regions want. False: the VM is being closed.
  bool Access(Space space, uint64_t address, unsigned length, uint8_t* data, bool is_write);
  // What a counter shows now; it goes on from there.
  uint32_t Counter(const Region& region) const;
  void SetCounter(Region& region, uint32_t value) const;

  RegionMap regions;
  Channel channel;
  struct Slot {
    std::shared_ptr<Mapping> mapping;
    // of 4 KiB
    uint64_t pages;
  };
  std::map<uint32_t, Slot> slots;
  std::vector<std::shared_ptr<VcpuThread>> vcpus;
  std::atomic<uint64_t> unclaimed{0};

 private:
  uint32_t Ticks(const Region& region) const;
  bool AccessWindow(Region& region, uint64_t offset, unsigned size, uint8_t* data, bool is_write);
  bool Order(const Region& region, bool* waited);
  bool Post(Region& region, uint64_t offset, uint32_t kind, uint32_t value, bool fence, bool* waited);
  bool Read(Region& region, uint64_t offset, unsigned size, uint32_t* value);
  bool Write(Region& region, uint64_t offset, unsigned size, uint32_t value);

  Fd vm_;
  size_t run_size_;
  bool closed_ = false;
  // nanoseconds of CLOCK_MONOTONIC
  int64_t created_;
};

}  // namespace tsvm
