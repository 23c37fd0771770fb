// The guest's port and memory-mapped I/O by regions. src/kvm/bus.ts has the meaning of the modes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

namespace tsvm {

enum class Space : uint8_t { kPio, kMmio };
// In order of cost: an access over several bytes takes the highest.
enum class ReadMode : uint8_t { kCounter, kShadow, kOrdered, kConsume, kTrap };
enum class WriteMode : uint8_t { kIgnore, kPosted, kTrap };

struct Region {
  uint32_t id;
  Space space;
  uint64_t base;
  uint64_t size;
  // one for all bytes, or one each
  std::vector<ReadMode> reads;
  std::vector<WriteMode> writes;
  uint64_t counter_hz = 0;
  unsigned counter_bits = 32;
  // Written by JavaScript while vCPUs read: every access is one aligned load, or bytes.
  std::shared_ptr<std::vector<uint8_t>> shadow;

  // statistics: accesses, and how many of them made a vCPU wait for JavaScript
  std::atomic<uint64_t> read_count{0};
  std::atomic<uint64_t> write_count{0};
  std::atomic<uint64_t> wait_count{0};

  ReadMode ReadModeAt(uint64_t offset, unsigned size) const;
  WriteMode WriteModeAt(uint64_t offset, unsigned size) const;
  uint32_t ReadShadow(uint64_t offset, unsigned size) const;
};

class RegionMap {
 public:
  // False where it overlaps a region of the same space.
  bool Add(std::shared_ptr<Region> region);
  void Remove(uint32_t id);
  // The region over `address`, and in `limit` how many bytes from there on have the same answer.
  std::shared_ptr<Region> Find(Space space, uint64_t address, uint64_t* limit) const;
  std::vector<std::shared_ptr<Region>> All() const;

 private:
  mutable std::shared_mutex mutex_;
  // sorted by (space, base)
  std::vector<std::shared_ptr<Region>> regions_;
};

}  // namespace tsvm
