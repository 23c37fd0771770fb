// What a VM's vCPUs find on its bus: regions as JavaScript describes them, and what it asks of them later.
#include <cerrno>
#include <cstring>
#include <ctime>

#include <algorithm>

#include "arguments.h"
#include "error.h"
#include "shared_bytes.h"
#include "vm.h"

namespace tsvm {

namespace {

// Shadows are ordinary memory: PCI Express configuration space, the largest there is, takes this much.
constexpr uint64_t kMaxShadow = uint64_t{1} << 28;

// Modes come as one byte each, numbered as in bus.h.
template <typename Mode>
std::vector<Mode> ToModes(const Napi::Value& value, const char* name, uint64_t size, Mode highest) {
  const Bytes bytes = ToBytes(value, name);
  if (bytes.size != 1 && bytes.size != size) {
    throw Napi::RangeError::New(value.Env(), std::string(name) + " must have one mode, or one for each byte");
  }
  std::vector<Mode> modes;
  modes.reserve(bytes.size);
  for (size_t i = 0; i < bytes.size; i++) {
    if (bytes.data[i] > static_cast<uint8_t>(highest)) {
      throw Napi::RangeError::New(value.Env(), std::string(name) + " has an unknown mode");
    }
    modes.push_back(static_cast<Mode>(bytes.data[i]));
  }
  return modes;
}

// Of the bytes `from` to `from + length` in a region.
uint32_t ToPlace(const Napi::Object& options, const char* name, uint64_t length, const Region& region) {
  const uint32_t from = ToUint32(Property(options, name), name);
  if (length > region.size || from > region.size - length) {
    throw Napi::RangeError::New(options.Env(), std::string(name) + " is outside the region");
  }
  return from;
}

// Ports choose registers in the other spaces alone, so that no choice leads to another one.
std::unique_ptr<IndexWindow> ToWindow(const Napi::Object& options, const Region& region) {
  Napi::Env env = options.Env();
  auto window = std::make_unique<IndexWindow>();
  window->index_size = ToUint32(Property(options, "indexSize"), "indexSize", 4);
  window->data_size = ToUint32(Property(options, "dataSize"), "dataSize");
  window->index_offset = ToPlace(options, "indexOffset", window->index_size, region);
  window->data_offset = ToPlace(options, "dataOffset", window->data_size, region);
  window->space = ToSpace(Property(options, "space"));
  if (region.space != Space::kPio || window->space == Space::kPio) {
    throw Napi::RangeError::New(env, "a window leads from ports to another space");
  }
  window->base = ToUint(Property(options, "base"), "base");
  window->match_mask = ToUint32(Property(options, "matchMask"), "matchMask");
  window->match_value = ToUint32(Property(options, "matchValue"), "matchValue");
  const Bytes fields = ToBytes(Property(options, "fields"), "fields");
  if (fields.size % sizeof(IndexWindow::Field) != 0) throw Napi::RangeError::New(env, "fields must be pairs");
  window->fields.resize(fields.size / sizeof(IndexWindow::Field));
  if (fields.size > 0) std::memcpy(window->fields.data(), fields.data, fields.size);
  for (const auto& field : window->fields) {
    if (field.shift > 31) throw Napi::RangeError::New(env, "a field is moved by at most 31 bits");
  }
  return window;
}

// Memory that vCPU threads and JavaScript share, for as long as either needs it.
template <typename Item>
Napi::ArrayBuffer Share(Napi::Env env, const std::shared_ptr<std::vector<Item>>& items) {
  return ShareBytes(env, items->data(), items->size() * sizeof(Item), items);
}

bool NeedsShadow(const std::vector<ReadMode>& modes) {
  return std::any_of(modes.begin(), modes.end(), [](ReadMode mode) {
    return mode == ReadMode::kShadow || mode == ReadMode::kOrdered || mode == ReadMode::kConsume ||
           mode == ReadMode::kLeased;
  });
}

}  // namespace

Space ToSpace(const Napi::Value& value) {
  const std::string space = ToString(value, "space");
  if (space == "pio") return Space::kPio;
  if (space == "mmio") return Space::kMmio;
  if (space == "indexed") return Space::kIndexed;
  throw Napi::RangeError::New(value.Env(), "space must be pio, mmio or indexed");
}

// Returns {id, shadow, takes}: the region's number in callbacks, and what reads are served from where a mode does so.
Napi::Value Vm::AddRegion(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Open(env);
  const auto options = ToObject(info[0], "options");
  auto region = std::make_shared<Region>();
  region->id = next_region_;
  region->space = ToSpace(Property(options, "space"));
  region->base = ToUint(Property(options, "base"), "base");
  region->size = ToUint(Property(options, "size"), "size", uint64_t{1} << 32);
  if (region->size == 0) throw Napi::RangeError::New(env, "size must be above 0");
  if (region->space == Space::kPio && region->base + region->size > 0x10000) {
    throw Napi::RangeError::New(env, "port space ends at 0xffff");
  }
  region->reads = ToModes(Property(options, "reads"), "reads", region->size, ReadMode::kTrap);
  region->writes = ToModes(Property(options, "writes"), "writes", region->size, WriteMode::kTrap);
  region->counter_hz = ToUint(Property(options, "counterHz"), "counterHz", 10'000'000'000);
  region->counter_bits = ToUint32(Property(options, "counterBits"), "counterBits", 32);
  region->own_order = ToBool(Property(options, "ownOrder"), "ownOrder");
  region->clears = ToUint(Property(options, "clears"), "clears", region->size);
  const bool clears = std::count(region->writes.begin(), region->writes.end(), WriteMode::kClear) > 0;
  if (clears && (!NeedsShadow(region->reads) || region->clears % 4 != 0 || region->clears + 4 > region->size)) {
    throw Napi::RangeError::New(env, "what writes clear must be 32 aligned bits of the shadow");
  }
  const Napi::Value window = options.Get("window");
  if (!window.IsUndefined()) region->window = ToWindow(ToObject(window, "window"), *region);
  Napi::Object result = Napi::Object::New(env);
  const bool takes = std::count(region->reads.begin(), region->reads.end(), ReadMode::kTake) > 0;
  if ((takes || NeedsShadow(region->reads)) && region->size > kMaxShadow) {
    throw Napi::RangeError::New(env, "a region with a shadow has at most 256 MiB");
  }
  if (NeedsShadow(region->reads)) {
    region->shadow = std::make_shared<std::vector<uint8_t>>(region->size);
    result.Set("shadow", Share(env, region->shadow));
  }
  if (takes) {
    region->takes = std::make_shared<std::vector<uint16_t>>(region->size);
    result.Set("takes", Share(env, region->takes));
  }
  if (!core_->regions.Add(region)) ThrowErrno(env, EEXIST, "bus", "a region that overlaps another");
  result.Set("id", Napi::Number::New(env, next_region_++));
  return result;
}

void Vm::RemoveRegion(const Napi::CallbackInfo& info) {
  Open(info.Env());
  core_->regions.Remove(ToUint32(info[0], "id"));
}

std::shared_ptr<Region> Vm::RegionOf(const Napi::Value& id) const {
  Open(id.Env());
  auto region = core_->regions.ById(ToUint32(id, "id"));
  if (!region) throw Napi::RangeError::New(id.Env(), "there is no such region");
  return region;
}

// Gives the index register of a region's window, and sets it where there is a second argument.
Napi::Value Vm::Index(const Napi::CallbackInfo& info) {
  const auto region = RegionOf(info[0]);
  if (!region->window) throw Napi::RangeError::New(info.Env(), "the region has no window");
  auto& index = region->window->index;
  if (!info[1].IsUndefined()) index.store(ToUint32(info[1], "index"), std::memory_order_release);
  return Napi::Number::New(info.Env(), index.load(std::memory_order_acquire));
}

// Gives what counter reads show now, and lets them go on from the second argument where there is one.
Napi::Value Vm::Counter(const Napi::CallbackInfo& info) {
  const auto region = RegionOf(info[0]);
  if (!info[1].IsUndefined()) core_->SetCounter(*region, ToUint32(info[1], "value"));
  return Napi::Number::New(info.Env(), core_->Counter(*region));
}

// Lets leased reads be served from the shadow for so many microseconds from now on; 0 ends that.
void Vm::Lease(const Napi::CallbackInfo& info) {
  const auto region = RegionOf(info[0]);
  const uint32_t microseconds = ToUint32(info[1], "microseconds");
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t from = now.tv_sec * INT64_C(1'000'000'000) + now.tv_nsec;
  region->leased_until.store(microseconds == 0 ? 0 : from + int64_t{microseconds} * 1000, std::memory_order_release);
}

// Four numbers a region: id, reads, writes, and how many of both waited for JavaScript. The last row, with id
// 2^32 - 1, has the accesses that no region claimed.
Napi::Value Vm::Counters(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto regions = core_->regions.All();
  auto counters = Napi::Float64Array::New(env, 4 * (regions.size() + 1));
  size_t at = 0;
  for (const auto& region : regions) {
    counters[at++] = region->id;
    counters[at++] = static_cast<double>(region->read_count.load(std::memory_order_relaxed));
    counters[at++] = static_cast<double>(region->write_count.load(std::memory_order_relaxed));
    counters[at++] = static_cast<double>(region->wait_count.load(std::memory_order_relaxed));
  }
  counters[at++] = UINT32_MAX;
  counters[at++] = static_cast<double>(core_->unclaimed.load(std::memory_order_relaxed));
  counters[at++] = 0;
  counters[at++] = 0;
  return counters;
}

// Where onPosted(count) finds its accesses.
Napi::Value Vm::PostedBuffer(const Napi::CallbackInfo& info) {
  return Share(info.Env(), posted_);
}

}  // namespace tsvm
