// The guest's port and memory-mapped I/O by regions. src/kvm/bus.ts has the meaning of the modes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

namespace tsvm {

enum class Space : uint8_t { kPio, kMmio, kIndexed };
// In order of cost: an access over several bytes takes the highest.
enum class ReadMode : uint8_t { kCounter, kShadow, kOrdered, kConsume, kLeased, kTake, kTrap };
enum class WriteMode : uint8_t { kIgnore, kClear, kStream, kPosted, kTrap };

// An index register, and data bytes that show what it chooses elsewhere on the bus.
struct IndexWindow {
  uint32_t index_offset = 0;
  // Only writes of this width, at this place, are taken.
  uint32_t index_size = 0;
  uint32_t data_offset = 0;
  uint32_t data_size = 0;
  Space space = Space::kIndexed;
  uint64_t base = 0;
  // The data bytes are an empty bus where the index differs from this.
  uint32_t match_mask = 0;
  uint32_t match_value = 0;
  // Bits of the index, and how far they are moved to make the address.
  struct Field {
    uint32_t mask;
    uint32_t shift;
  };
  std::vector<Field> fields;
  std::atomic<uint32_t> index{0};

  bool IsIndex(uint64_t offset, unsigned size) const { return offset == index_offset && size == index_size; }
  bool IsData(uint64_t offset, unsigned size) const {
    return offset >= data_offset && offset + size <= data_offset + data_size;
  }
  // How much of an access can be done at once: up to a border by bytes.
  unsigned Cut(uint64_t offset, unsigned size) const;
  // False where there is nothing.
  bool Target(uint64_t offset, uint64_t* address) const;
};

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
  // what the counter had when the VM was created
  std::atomic<uint32_t> counter_start{0};
  // Written by JavaScript while vCPUs read: every access is one aligned load, or bytes. kClear writes it too.
  std::shared_ptr<std::vector<uint8_t>> shadow;
  // kTake: for each byte the value that is read in the low half, what the read leaves in the high half
  std::shared_ptr<std::vector<uint16_t>> takes;
  // kClear: where in the shadow
  uint64_t clears = 0;
  // Reads wait for posted writes to this region alone, not for those to all of them.
  bool own_order = false;
  // how many accesses had been posted with the last one that such a read waits for
  std::atomic<uint64_t> fence{0};
  // kLeased: until when the shadow counts, in nanoseconds of CLOCK_MONOTONIC
  std::atomic<int64_t> leased_until{0};
  std::unique_ptr<IndexWindow> window;

  // statistics: accesses, and how many of them made a vCPU wait for JavaScript
  std::atomic<uint64_t> read_count{0};
  std::atomic<uint64_t> write_count{0};
  std::atomic<uint64_t> wait_count{0};

  ReadMode ReadModeAt(uint64_t offset, unsigned size) const;
  WriteMode WriteModeAt(uint64_t offset, unsigned size) const;
  uint32_t ReadShadow(uint64_t offset, unsigned size) const;
  uint8_t Take(uint64_t offset);
  void Clear(uint32_t bits);
  void RaiseFence(uint64_t posted);
};

class RegionMap {
 public:
  // False where it overlaps a region of the same space.
  bool Add(std::shared_ptr<Region> region);
  void Remove(uint32_t id);
  std::shared_ptr<Region> ById(uint32_t id) const;
  // The region over `address`, and in `limit` how many bytes from there on have the same answer.
  std::shared_ptr<Region> Find(Space space, uint64_t address, uint64_t* limit) const;
  std::vector<std::shared_ptr<Region>> All() const;

 private:
  mutable std::shared_mutex mutex_;
  // sorted by (space, base)
  std::vector<std::shared_ptr<Region>> regions_;
};

}  // namespace tsvm
