#include "bus.h"

#include <algorithm>
#include <mutex>

namespace tsvm {

namespace {

template <typename Mode>
Mode Highest(const std::vector<Mode>& modes, uint64_t offset, unsigned size) {
  if (modes.size() == 1) return modes[0];
  const auto first = modes.begin() + static_cast<ptrdiff_t>(offset);
  return *std::max_element(first, first + size);
}

bool Before(const std::shared_ptr<Region>& region, Space space, uint64_t base) {
  return region->space != space ? region->space < space : region->base < base;
}

}  // namespace

unsigned IndexWindow::Cut(uint64_t offset, unsigned size) const {
  const auto crosses = [&](uint64_t from, uint64_t to) {
    const bool touches = offset < to && from < offset + size;
    return touches && !(offset >= from && offset + size <= to);
  };
  const bool over_index = index_size == 1 && crosses(index_offset, index_offset + 1);
  return over_index || crosses(data_offset, data_offset + data_size) ? 1 : size;
}

bool IndexWindow::Target(uint64_t offset, uint64_t* address) const {
  const uint32_t value = index.load(std::memory_order_acquire);
  if ((value & match_mask) != match_value) return false;
  *address = base + (offset - data_offset);
  for (const auto& field : fields) *address += static_cast<uint64_t>(value & field.mask) << field.shift;
  return true;
}

ReadMode Region::ReadModeAt(uint64_t offset, unsigned size) const {
  const ReadMode mode = Highest(reads, offset, size);
  return mode == ReadMode::kTake && size != 1 ? ReadMode::kTrap : mode;
}

WriteMode Region::WriteModeAt(uint64_t offset, unsigned size) const { return Highest(writes, offset, size); }

uint32_t Region::ReadShadow(uint64_t offset, unsigned size) const {
  const uint8_t* at = shadow->data() + offset;
  if (size == 4 && offset % 4 == 0) return __atomic_load_n(reinterpret_cast<const uint32_t*>(at), __ATOMIC_ACQUIRE);
  if (size == 2 && offset % 2 == 0) return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), __ATOMIC_ACQUIRE);
  uint32_t value = 0;
  for (unsigned i = 0; i < size; i++) {
    value |= static_cast<uint32_t>(__atomic_load_n(at + i, __ATOMIC_ACQUIRE)) << (8 * i);
  }
  return value;
}

uint8_t Region::Take(uint64_t offset) {
  uint16_t* at = takes->data() + offset;
  uint16_t pair = __atomic_load_n(at, __ATOMIC_ACQUIRE);
  uint16_t left;
  do {
    left = static_cast<uint16_t>((pair & 0xff00) | (pair >> 8));
  } while (!__atomic_compare_exchange_n(at, &pair, left, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
  return static_cast<uint8_t>(pair);
}

void Region::Clear(uint32_t bits) {
  __atomic_and_fetch(reinterpret_cast<uint32_t*>(shadow->data() + clears), ~bits, __ATOMIC_ACQ_REL);
}

void Region::RaiseFence(uint64_t posted) {
  uint64_t before = fence.load(std::memory_order_relaxed);
  while (before < posted && !fence.compare_exchange_weak(before, posted, std::memory_order_release)) {
  }
}

bool RegionMap::Add(std::shared_ptr<Region> region) {
  std::unique_lock lock(mutex_);
  auto at = std::lower_bound(regions_.begin(), regions_.end(), region,
                             [](const auto& a, const auto& b) { return Before(a, b->space, b->base); });
  if (at != regions_.end() && (*at)->space == region->space && (*at)->base - region->base < region->size) return false;
  if (at != regions_.begin()) {
    const auto& below = *std::prev(at);
    if (below->space == region->space && region->base - below->base < below->size) return false;
  }
  regions_.insert(at, std::move(region));
  return true;
}

void RegionMap::Remove(uint32_t id) {
  std::unique_lock lock(mutex_);
  regions_.erase(std::remove_if(regions_.begin(), regions_.end(), [id](const auto& r) { return r->id == id; }),
                 regions_.end());
}

std::shared_ptr<Region> RegionMap::ById(uint32_t id) const {
  std::shared_lock lock(mutex_);
  for (const auto& region : regions_) {
    if (region->id == id) return region;
  }
  return nullptr;
}

std::shared_ptr<Region> RegionMap::Find(Space space, uint64_t address, uint64_t* limit) const {
  std::shared_lock lock(mutex_);
  // the first region that starts above `address`
  auto above = std::partition_point(regions_.begin(), regions_.end(), [&](const auto& r) {
    return r->space != space ? r->space < space : r->base <= address;
  });
  if (above != regions_.begin()) {
    const auto& region = *std::prev(above);
    if (region->space == space && address - region->base < region->size) {
      *limit = region->size - (address - region->base);
      return region;
    }
  }
  *limit = above != regions_.end() && (*above)->space == space ? (*above)->base - address : UINT64_MAX;
  return nullptr;
}

std::vector<std::shared_ptr<Region>> RegionMap::All() const {
  std::shared_lock lock(mutex_);
  return regions_;
}

}  // namespace tsvm
