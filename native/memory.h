// Guest memory: a mapping that outlives every use of it.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "fd.h"

namespace tsvm {

struct Range {
  uint64_t offset;
  uint64_t length;
};

// Pages of the host. Shared by the JavaScript object, its windows, the VMs that map it and I/O in flight; the
// address range goes when the last of them has let go.
class Mapping {
 public:
  Mapping(uint8_t* base, uint64_t size, uint64_t page_size, Fd fd, bool shared)
      : base_(base), size_(size), page_size_(page_size), fd_(std::move(fd)), shared_(shared), layered_(fd_ && !shared) {}
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* base() const { return base_; }
  uint64_t size() const { return size_; }
  // What can be given back at least.
  uint64_t page_size() const { return page_size_; }
  int fd() const { return fd_.get(); }
  // Writes go to the file or memfd behind it.
  bool shared() const { return shared_; }
  // Gives the pages back at once. The addresses stay reserved and read as zeros for whoever still holds them.
  void Release();
  // Puts parts of a file, copied on write, in place of what is at the same offsets. Returns an errno value, or 0.
  int MapOver(int fd, uint64_t offset, uint64_t length);
  // Untouched pages have the contents of a file.
  bool layered() const { return layered_; }
  // Puts memory of its own, in huge pages where there are any, with what `source` has there in place of ranges that have
  // the same contents. Returns an errno value, or 0.
  int Copy(const std::shared_ptr<Mapping>& source, const std::vector<Range>& ranges);
  // Ranges that were copied: what the file below has there is what `source` has.
  const std::vector<Range>& copied() const { return copied_; }
  const Mapping* source() const { return source_.get(); }

 private:
  uint8_t* base_;
  uint64_t size_;
  uint64_t page_size_;
  Fd fd_;
  bool shared_;
  bool layered_;
  std::vector<Range> copied_;
  std::shared_ptr<Mapping> source_;
};

class Memory : public Napi::ObjectWrap<Memory> {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit Memory(const Napi::CallbackInfo& info);

  static std::shared_ptr<Mapping> MappingOf(const Napi::Value& value);

 private:
  Napi::Value Window(const Napi::CallbackInfo& info);
  Napi::Value GetSize(const Napi::CallbackInfo& info);
  Napi::Value GetFd(const Napi::CallbackInfo& info);
  void Discard(const Napi::CallbackInfo& info);
  void MapOver(const Napi::CallbackInfo& info);
  Napi::Value Prefetch(const Napi::CallbackInfo& info);
  Napi::Value Touched(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);
  Mapping& Open(Napi::Env env) const;

  std::shared_ptr<Mapping> mapping_;
};

}  // namespace tsvm
