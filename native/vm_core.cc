#include "vm_core.h"

#include <algorithm>
#include <cstring>
#include <ctime>

#include "vcpu_thread.h"

namespace tsvm {

namespace {

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1'000'000'000) + now.tv_nsec;
}

}  // namespace

VmCore::VmCore(Fd vm, Fd wake, size_t run_size) : channel(std::move(wake)), vm_(std::move(vm)), run_size_(run_size) {
  created_ = Now();
}

VmCore::~VmCore() { Close(); }

void VmCore::Close() {
  if (closed_) return;
  closed_ = true;
  channel.Close();
  for (auto& vcpu : vcpus) vcpu->RequestEnd();
  for (auto& vcpu : vcpus) vcpu->Join();
  for (auto& vcpu : vcpus) vcpu->Release();
  vcpus.clear();
  vm_.Reset();
  slots.clear();
}

bool VmCore::Access(Space space, uint64_t address, unsigned length, uint8_t* data, bool is_write) {
  while (length > 0) {
    uint64_t limit;
    const auto region = regions.Find(space, address, &limit);
    const unsigned here = static_cast<unsigned>(std::min<uint64_t>(length, limit));
    if (!region) {
      // An empty bus: reads float high, writes go nowhere.
      if (!is_write) std::memset(data, 0xff, here);
      unclaimed.fetch_add(1, std::memory_order_relaxed);
      address += here;
      data += here;
      length -= here;
      continue;
    }
    unsigned size = here >= 4 ? 4 : here >= 2 ? 2 : 1;
    const uint64_t offset = address - region->base;
    if (region->window) size = region->window->Cut(offset, size);
    uint32_t value = 0;
    if (region->window && region->window->IsData(offset, size)) {
      if (!AccessWindow(*region, offset, size, data, is_write)) return false;
    } else if (is_write) {
      std::memcpy(&value, data, size);
      region->write_count.fetch_add(1, std::memory_order_relaxed);
      if (!Write(*region, offset, size, value)) return false;
    } else {
      region->read_count.fetch_add(1, std::memory_order_relaxed);
      if (!Read(*region, offset, size, &value)) return false;
      std::memcpy(data, &value, size);
    }
    address += size;
    data += size;
    length -= size;
  }
  return true;
}

// Goes to what the index chooses. Such regions have no window themselves.
bool VmCore::AccessWindow(Region& region, uint64_t offset, unsigned size, uint8_t* data, bool is_write) {
  uint64_t address;
  if (region.window->Target(offset, &address)) return Access(region.window->space, address, size, data, is_write);
  if (!is_write) std::memset(data, 0xff, size);
  (is_write ? region.write_count : region.read_count).fetch_add(1, std::memory_order_relaxed);
  return true;
}

// Waits for the posted writes that a read must see the effect of.
bool VmCore::Order(const Region& region, bool* waited) {
  if (!region.own_order) return channel.WaitForPosted(waited);
  return channel.WaitForPosted(waited, region.fence.load(std::memory_order_acquire));
}

bool VmCore::Post(Region& region, uint64_t offset, uint32_t kind, uint32_t value, bool fence, bool* waited) {
  uint64_t posted;
  if (!channel.Post({region.id, static_cast<uint32_t>(offset), kind, value}, waited, &posted)) return false;
  if (fence) region.RaiseFence(posted);
  return true;
}

bool VmCore::Read(Region& region, uint64_t offset, unsigned size, uint32_t* value) {
  const ReadMode mode = region.ReadModeAt(offset, size);
  bool waited = false;
  switch (mode) {
    case ReadMode::kCounter:
      *value = Counter(region) >> (8 * (offset & 3));
      return true;
    case ReadMode::kShadow:
      *value = region.ReadShadow(offset, size);
      return true;
    case ReadMode::kOrdered:
    case ReadMode::kConsume:
    case ReadMode::kTake: {
      if (!Order(region, &waited)) return false;
      *value = mode == ReadMode::kTake ? region.Take(offset) : region.ReadShadow(offset, size);
      bool full = false;
      if (mode != ReadMode::kOrdered &&
          !Post(region, offset, size | kConsumed, *value, mode == ReadMode::kConsume, &full)) {
        return false;
      }
      if (waited || full) region.wait_count.fetch_add(1, std::memory_order_relaxed);
      return true;
    }
    case ReadMode::kLeased:
      if (!Order(region, &waited)) return false;
      if (Now() < region.leased_until.load(std::memory_order_acquire)) {
        *value = region.ReadShadow(offset, size);
        if (waited) region.wait_count.fetch_add(1, std::memory_order_relaxed);
        return true;
      }
      break;
    case ReadMode::kTrap:
      break;
  }
  region.wait_count.fetch_add(1, std::memory_order_relaxed);
  TrappedAccess access{region.id, static_cast<uint32_t>(offset), size, false, 0};
  if (!channel.Trap(&access)) return false;
  *value = access.value;
  return true;
}

bool VmCore::Write(Region& region, uint64_t offset, unsigned size, uint32_t value) {
  if (region.window && region.window->IsIndex(offset, size)) {
    region.window->index.store(value, std::memory_order_release);
    return true;
  }
  const WriteMode mode = region.WriteModeAt(offset, size);
  switch (mode) {
    case WriteMode::kIgnore:
      return true;
    case WriteMode::kClear:
      if (size == 4 && offset % 4 == 0) region.Clear(value);
      return true;
    case WriteMode::kStream:
    case WriteMode::kPosted: {
      bool waited = false;
      const bool posted = Post(region, offset, size, value, mode == WriteMode::kPosted, &waited);
      if (waited) region.wait_count.fetch_add(1, std::memory_order_relaxed);
      return posted;
    }
    case WriteMode::kTrap:
      break;
  }
  region.wait_count.fetch_add(1, std::memory_order_relaxed);
  TrappedAccess access{region.id, static_cast<uint32_t>(offset), size, true, value};
  return channel.Trap(&access);
}

uint32_t VmCore::Counter(const Region& region) const {
  const uint32_t value = Ticks(region) + region.counter_start.load(std::memory_order_acquire);
  return region.counter_bits >= 32 ? value : value & ((uint32_t{1} << region.counter_bits) - 1);
}

void VmCore::SetCounter(Region& region, uint32_t value) const {
  region.counter_start.store(value - Ticks(region), std::memory_order_release);
}

uint32_t VmCore::Ticks(const Region& region) const {
  const int64_t ns = Now() - created_;
  return static_cast<uint32_t>(static_cast<unsigned __int128>(ns) * region.counter_hz / 1'000'000'000);
}

}  // namespace tsvm
