#include "frame_memory.h"

namespace tsvm {

namespace {

constexpr size_t kMaxBuffers = 4096;

}  // namespace

int32_t FrameMemory::Register(Napi::Env env, Napi::ArrayBuffer array, uint64_t offset, uint64_t length) {
  if (offset > array.ByteLength() || length > array.ByteLength() - offset) {
    throw Napi::RangeError::New(env, "the range ends after the buffer");
  }
  size_t number = 0;
  while (number < buffers_.size() && !buffers_[number].held.IsEmpty()) number++;
  if (number == kMaxBuffers) throw Napi::RangeError::New(env, "too many buffers are registered");
  if (number == buffers_.size()) buffers_.emplace_back();
  Buffer& buffer = buffers_[number];
  buffer.held = Napi::Reference<Napi::ArrayBuffer>::New(array, 1);
  buffer.base = static_cast<uint8_t*>(array.Data()) + offset;
  buffer.size = length;
  return static_cast<int32_t>(number);
}

void FrameMemory::Unregister(Napi::Env env, uint32_t number) {
  if (number >= buffers_.size() || buffers_[number].held.IsEmpty()) {
    throw Napi::RangeError::New(env, "there is no such buffer");
  }
  buffers_[number] = Buffer();
}

bool FrameMemory::Resolve(const FrameRecord& record, const FramePiece* all, std::vector<iovec>* to,
                          uint64_t* length) const {
  if (record.first_piece > kFramePieces || record.pieces > kFramePieces - record.first_piece) return false;
  const FramePiece* piece = all + record.first_piece;
  for (const FramePiece* end = piece + record.pieces; piece != end; piece++) {
    const auto number = static_cast<uint32_t>(piece->buffer);
    if (number >= buffers_.size()) return false;
    const Buffer& buffer = buffers_[number];
    if (!(piece->offset >= 0 && piece->offset <= static_cast<double>(buffer.size))) return false;
    const auto offset = static_cast<uint64_t>(piece->offset);
    if (piece->length > buffer.size - offset) return false;
    if (piece->length == 0) continue;
    to->push_back({buffer.base + offset, piece->length});
    *length += piece->length;
  }
  return true;
}

}  // namespace tsvm
