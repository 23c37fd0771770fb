#include "memory.h"

#include <cerrno>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "error.h"
#include "page_map.h"
#include "promise_worker.h"
#include "shared_bytes.h"

namespace tsvm {

namespace {

constexpr napi_type_tag kTag = {0x2c7e90b4f36d4a15, 0x9be4d8016a7fc253};

// One ArrayBuffer: V8 on Node 20 takes up to 4 GiB, DataView offsets are cheapest below 2 GiB.
constexpr uint64_t kWindowLimit = uint64_t{1} << 31;
// KVM backs a slot with huge pages only where guest and host addresses agree below this.
constexpr uint64_t kHugePage = uint64_t{1} << 21;

struct HugePages {
  int map_flags = 0;
  int memfd_flags = 0;
  bool advise = false;
  uint64_t page_size = 4096;
};

HugePages ParseHugePages(Napi::Env env, const std::string& text) {
  if (text == "none") return {};
  if (text == "transparent") return {0, 0, true};
  if (text == "2M") return {MAP_HUGETLB | MAP_HUGE_2MB, int(MFD_HUGETLB | MFD_HUGE_2MB), false, uint64_t{1} << 21};
  if (text == "1G") return {MAP_HUGETLB | MAP_HUGE_1GB, int(MFD_HUGETLB | MFD_HUGE_1GB), false, uint64_t{1} << 30};
  throw Napi::RangeError::New(env, "hugePages must be none, transparent, 2M or 1G");
}

// Addresses for a mapping that begins at a huge page's border; nullptr where there are none.
uint8_t* Reserve(uint64_t size) {
  const uint64_t room = size + kHugePage;
  void* found = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  auto* start = static_cast<uint8_t*>(found);
  const uint64_t skip = -reinterpret_cast<uintptr_t>(start) % kHugePage;
  if (skip > 0) munmap(start, skip);
  munmap(start + skip + size, room - skip - size);
  return start + skip;
}

std::shared_ptr<Mapping> Map(Napi::Env env, uint64_t size, int flags, Fd fd, uint64_t offset, const HugePages& huge,
                             const char* what) {
  uint8_t* place = nullptr;
  if (huge.map_flags == 0) {
    place = Reserve(size);
    if (place == nullptr) ThrowErrno(env, errno, "mmap", what);
    flags |= MAP_NORESERVE | MAP_FIXED;
  }
  // Pages of a pool are reserved now: an empty pool is an error here, and not SIGBUS at the first touch.
  void* base = mmap(place, size, PROT_READ | PROT_WRITE, flags, fd.get(), static_cast<off_t>(offset));
  if (base == MAP_FAILED) {
    const int error = errno;
    if (place != nullptr) munmap(place, size);
    ThrowErrno(env, error, "mmap", what);
  }
  auto mapping = std::make_shared<Mapping>(static_cast<uint8_t*>(base), size, huge.page_size, std::move(fd),
                                           (flags & MAP_SHARED) != 0);
  // Advice only: a kernel without transparent huge pages answers EINVAL and memory works all the same.
  if (huge.advise) madvise(base, size, MADV_HUGEPAGE);
  // Guest memory has no place in a core dump or in a child.
  madvise(base, size, MADV_DONTDUMP);
  madvise(base, size, MADV_DONTFORK);
  return mapping;
}

Fd OpenFile(Napi::Env env, const std::string& path, bool shared, uint64_t offset, uint64_t size) {
  // O_NONBLOCK is for a FIFO, whose open would wait for a writer; a regular file does not care.
  Fd fd(open(path.c_str(), (shared ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
  if (!fd) ThrowErrno(env, errno, "open", path.c_str());
  struct stat status;
  if (fstat(fd.get(), &status) < 0) ThrowErrno(env, errno, "fstat", path.c_str());
  if (!S_ISREG(status.st_mode)) throw Napi::RangeError::New(env, path + " is not a regular file");
  // Pages past the end of a file raise SIGBUS when they are touched: refuse them here.
  if (static_cast<uint64_t>(status.st_size) < offset + size) {
    throw Napi::RangeError::New(env, path + " is shorter than the memory to be mapped from it");
  }
  return fd;
}

// More threads than this wait for the memory, not for the processor.
constexpr unsigned kMostCopiers = 4;

// `count` pairs of offset and length in a Float64Array: whole pages of the mapping, none of them empty.
std::vector<Range> ToRanges(const Napi::Value& value, const Napi::Value& number, const Mapping& mapping) {
  Napi::Env env = value.Env();
  const Bytes bytes = ToBytes(value, "ranges");
  if (value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw Napi::TypeError::New(env, "ranges must be a Float64Array");
  }
  const auto* numbers = reinterpret_cast<const double*>(bytes.data);
  const uint64_t count = ToUint(number, "count", bytes.size / (2 * sizeof(double)));
  const auto whole_pages = [&](double number) {
    return number >= 0 && number <= static_cast<double>(mapping.size()) &&
           static_cast<double>(static_cast<uint64_t>(number)) == number &&
           static_cast<uint64_t>(number) % mapping.page_size() == 0;
  };
  std::vector<Range> ranges;
  ranges.reserve(count);
  for (uint64_t i = 0; i < 2 * count; i += 2) {
    if (!whole_pages(numbers[i]) || !whole_pages(numbers[i + 1]) ||
        numbers[i] + numbers[i + 1] > static_cast<double>(mapping.size())) {
      throw Napi::RangeError::New(env, "ranges are whole pages of the memory");
    }
    if (numbers[i + 1] > 0) ranges.push_back({static_cast<uint64_t>(numbers[i]), static_cast<uint64_t>(numbers[i + 1])});
  }
  return ranges;
}

}  // namespace

Mapping::~Mapping() { munmap(base_, size_); }

void Mapping::Release() {
  mmap(base_, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  madvise(base_, size_, MADV_DONTDUMP);
  fd_.Reset();
}

int Mapping::MapOver(int fd, uint64_t offset, uint64_t length) {
  uint8_t* place = base_ + offset;
  const int flags = MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED;
  if (mmap(place, length, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset)) == MAP_FAILED) return errno;
  madvise(place, length, MADV_DONTDUMP);
  madvise(place, length, MADV_DONTFORK);
  layered_ = true;
  return 0;
}

int Mapping::Copy(const std::shared_ptr<Mapping>& source, const std::vector<Range>& ranges) {
  source_ = source;
  for (const Range& range : ranges) {
    uint8_t* place = base_ + range.offset;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap(place, range.length, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return errno;
    madvise(place, range.length, MADV_HUGEPAGE);
    madvise(place, range.length, MADV_DONTDUMP);
    madvise(place, range.length, MADV_DONTFORK);
    // By huge pages, for threads to share the work.
    for (uint64_t at = range.offset; at < range.offset + range.length; at += kHugePage) {
      copied_.push_back({at, std::min(kHugePage, range.offset + range.length - at)});
    }
  }
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < copied_.size(); i = next++) {
      std::memcpy(base_ + copied_[i].offset, source->base() + copied_[i].offset, copied_[i].length);
    }
  };
  std::vector<std::thread> others;
  const size_t count = std::min<size_t>({copied_.size(), kMostCopiers, std::thread::hardware_concurrency()});
  for (size_t i = 1; i < count; i++) {
    try {
      others.emplace_back(work);
    } catch (const std::system_error&) {
      break;
    }
  }
  work();
  for (std::thread& other : others) other.join();
  return 0;
}

void Memory::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("Memory", DefineClass(env, "Memory",
                                    {
                                        InstanceMethod("window", &Memory::Window),
                                        InstanceMethod("discard", &Memory::Discard),
                                        InstanceMethod("mapOver", &Memory::MapOver),
                                        InstanceMethod("prefetch", &Memory::Prefetch),
                                        InstanceMethod("touched", &Memory::Touched),
                                        InstanceMethod("close", &Memory::Close),
                                        InstanceAccessor("size", &Memory::GetSize, nullptr),
                                        InstanceAccessor("fd", &Memory::GetFd, nullptr),
                                    }));
}

Memory::Memory(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  const auto options = ToObject(info[0], "options");
  const uint64_t size = ToUint(Property(options, "size"), "size");
  if (size == 0 || size % 4096 != 0) throw Napi::RangeError::New(env, "size must be a multiple of 4096 above 0");
  const std::string backing = ToString(Property(options, "backing"), "backing");
  const HugePages huge = ParseHugePages(env, ToString(Property(options, "hugePages"), "hugePages"));
  if (size % huge.page_size != 0) throw Napi::RangeError::New(env, "size must be a multiple of the huge pages' size");

  if (backing == "anonymous") {
    mapping_ = Map(env, size, MAP_PRIVATE | MAP_ANONYMOUS | huge.map_flags, Fd(), 0, huge, "anonymous");
  } else if (backing == "memfd") {
    Fd fd(memfd_create("tsvm-guest", static_cast<unsigned>(MFD_CLOEXEC | huge.memfd_flags)));
    if (!fd) ThrowErrno(env, errno, "memfd_create", "guest memory");
    if (ftruncate(fd.get(), static_cast<off_t>(size)) < 0) ThrowErrno(env, errno, "ftruncate", "guest memory");
    mapping_ = Map(env, size, MAP_SHARED, std::move(fd), 0, huge, "memfd");
  } else if (backing == "file") {
    if (huge.map_flags != 0) throw Napi::RangeError::New(env, "hugePages of a pool do not go with a file");
    const bool shared = ToBool(Property(options, "shared"), "shared");
    const uint64_t offset = ToUint(Property(options, "offset"), "offset");
    if (offset % 4096 != 0) throw Napi::RangeError::New(env, "offset must be a multiple of 4096");
    Fd fd = OpenFile(env, ToString(Property(options, "path"), "path"), shared, offset, size);
    mapping_ = Map(env, size, shared ? MAP_SHARED : MAP_PRIVATE, std::move(fd), offset, huge, "file");
  } else {
    throw Napi::RangeError::New(env, "backing must be anonymous, memfd or file");
  }
  info.This().As<Napi::Object>().TypeTag(&kTag);
}

Mapping& Memory::Open(Napi::Env env) const {
  if (!mapping_) ThrowClosed(env, "memory");
  return *mapping_;
}

std::shared_ptr<Mapping> Memory::MappingOf(const Napi::Value& value) {
  Memory* memory = Unwrap(ToTagged(value, kTag, "memory must be a Memory"));
  memory->Open(value.Env());
  return memory->mapping_;
}

Napi::Value Memory::Window(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Mapping& mapping = Open(env);
  const uint64_t offset = ToUint(info[0], "offset");
  const uint64_t length = ToUint(info[1], "length", kWindowLimit);
  if (offset > mapping.size() || length > mapping.size() - offset) {
    throw Napi::RangeError::New(env, "the window ends after the memory");
  }
  return ShareBytes(env, mapping.base() + offset, length, mapping_);
}

Napi::Value Memory::GetSize(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Open(info.Env()).size()));
}

Napi::Value Memory::GetFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Open(info.Env()).fd());
}

// Gives pages back to the host; they read as zeros (or as the file's bytes) when they are touched next. Takes `count`
// pairs of offset and length and looks at all of them before it touches the first.
void Memory::Discard(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Mapping& mapping = Open(env);
  const int advice = mapping.shared() ? MADV_REMOVE : MADV_DONTNEED;
  int error = 0;
  for (const Range& range : ToRanges(info[0], info[1], mapping)) {
    if (madvise(mapping.base() + range.offset, range.length, advice) < 0 && error == 0) error = errno;
  }
  if (error != 0) ThrowErrno(env, error, "madvise", "discard");
}

// mapOver(path, ranges, count): what the file has there, copied on write, in place of these ranges. No I/O may be under
// way, and no vCPU run.
void Memory::MapOver(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Mapping& mapping = Open(env);
  if (mapping.shared() || mapping.page_size() != 4096) {
    ThrowErrno(env, EINVAL, "mmap", "a file over shared memory or memory of a pool");
  }
  const Fd fd = OpenFile(env, ToString(info[0], "path"), false, 0, mapping.size());
  for (const Range& range : ToRanges(info[1], info[2], mapping)) {
    const int error = mapping.MapOver(fd.get(), range.offset, range.length);
    if (error != 0) ThrowErrno(env, error, "mmap", "a file over memory");
  }
}

// prefetch(source, ranges, count): a promise. Memory with the same contents takes the place of these ranges, which the
// guest is about to touch. No I/O may be under way until it has resolved, and no vCPU run.
Napi::Value Memory::Prefetch(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Mapping& mapping = Open(env);
  std::shared_ptr<Mapping> source = MappingOf(info[0]);
  if (mapping.shared() || mapping.page_size() != 4096 || source->size() != mapping.size() || mapping.source() != nullptr) {
    ThrowErrno(env, EINVAL, "mmap", "a copy of other memory, or a second one");
  }
  auto work = [copied = mapping_, source = std::move(source), ranges = ToRanges(info[1], info[2], mapping)](double*) {
    return copied->Copy(source, ranges);
  };
  return RunOnThread(env, "mmap", "a copy of the memory of a snapshot", std::move(work));
}

// touched(pagemap, block, least): pairs of offset and length of the blocks, neighbours joined, of which this process has
// at least so many pages in its page tables.
Napi::Value Memory::Touched(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Mapping& mapping = Open(env);
  const int pagemap = ToFd(info[0], "pagemap");
  const uint64_t block = ToUint(info[1], "block", uint64_t{1} << 30);
  const uint64_t least = ToUint(info[2], "least", uint64_t{1} << 30);
  if (block == 0 || block % kPage != 0) throw Napi::RangeError::New(env, "a block is whole pages");
  std::vector<double> numbers;
  std::vector<uint64_t> entries(block / kPage);
  for (uint64_t at = 0; at < mapping.size(); at += block) {
    const uint64_t length = std::min(block, mapping.size() - at);
    const uint64_t page = (reinterpret_cast<uintptr_t>(mapping.base()) + at) / kPage;
    const size_t wanted = length / kPage * sizeof(uint64_t);
    const ssize_t got = pread(pagemap, entries.data(), wanted, static_cast<off_t>(page * sizeof(uint64_t)));
    if (got < 0 || static_cast<size_t>(got) != wanted) ThrowErrno(env, got < 0 ? errno : EIO, "pread", "page map");
    const auto present = [](uint64_t entry) { return (entry & kPresent) != 0; };
    const auto end = entries.begin() + static_cast<ptrdiff_t>(length / kPage);
    if (static_cast<uint64_t>(std::count_if(entries.begin(), end, present)) < least) continue;
    const size_t count = numbers.size();
    if (count > 0 && numbers[count - 2] + numbers[count - 1] == static_cast<double>(at)) {
      numbers[count - 1] += static_cast<double>(length);
    } else {
      numbers.push_back(static_cast<double>(at));
      numbers.push_back(static_cast<double>(length));
    }
  }
  auto result = Napi::Float64Array::New(env, numbers.size());
  if (!numbers.empty()) std::memcpy(result.Data(), numbers.data(), numbers.size() * sizeof(double));
  return result;
}

void Memory::Close(const Napi::CallbackInfo&) {
  if (!mapping_) return;
  if (mapping_.use_count() > 1) mapping_->Release();
  mapping_.reset();
}

}  // namespace tsvm
