// What is in guest memory at one moment, and its way into a file.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "memory.h"

namespace tsvm {

// Which pages of a memory are in the image is settled when it is made, while nothing runs; what is in them is read
// when they are written: by a thread while the VM still stands, or by a child process, which has the memory of the
// moment at which it was made however the VM goes on.
class MemoryImage : public Napi::ObjectWrap<MemoryImage> {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  // memory, descriptor of /proc/self/pagemap or -1, whether pages that are still those of the file below are left
  // out, bytes of a block
  explicit MemoryImage(const Napi::CallbackInfo& info);

 private:
  Napi::Value Extents(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
  void Find(Napi::Env env, int pagemap, bool changed_only);

  std::shared_ptr<Mapping> mapping_;
  uint64_t block_;
  // for each block whether it may have contents
  std::shared_ptr<std::vector<bool>> blocks_;
};

}  // namespace tsvm
