// Buffers of JavaScript's that frames are sent from and received into, by number.
#pragma once

#include <napi.h>
#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "frame_area.h"

namespace tsvm {

class FrameMemory {
 public:
  int32_t Register(Napi::Env env, Napi::ArrayBuffer array, uint64_t offset, uint64_t length);
  void Unregister(Napi::Env env, uint32_t number);
  void Clear() { buffers_.clear(); }
  // Appends a record's pieces, which lie among `all`, and adds up their lengths. False where one of them is outside
  // of its buffer; some may have been appended by then.
  bool Resolve(const FrameRecord& record, const FramePiece* all, std::vector<iovec>* to, uint64_t* length) const;

 private:
  struct Buffer {
    Napi::Reference<Napi::ArrayBuffer> held;
    uint8_t* base = nullptr;
    uint64_t size = 0;
  };

  std::vector<Buffer> buffers_;
};

}  // namespace tsvm
