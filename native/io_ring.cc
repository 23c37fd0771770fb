#include "io_ring.h"

#include <cerrno>
#include <cmath>
#include <string>

#include "addon.h"
#include "arguments.h"
#include "error.h"
#include "shared_bytes.h"

namespace tsvm {

namespace {

constexpr uint32_t kMaxEntries = 4096;
constexpr uint32_t kMaxPieces = 65536;
// A buffer's number: its index below, its generation above.
constexpr uint32_t kIndexBits = 12;
constexpr uint32_t kMaxBuffers = 1 << kIndexBits;
constexpr uint32_t kGenerations = 1 << (31 - kIndexBits);
// What a request keeps of its arrays when it is over, so that one of many pieces does not hold memory for ever.
constexpr size_t kKeptPieces = 256;

// Whole numbers that a double holds exactly.
bool ToWhole(double value, uint64_t* whole) {
  if (!(value >= 0 && value <= 9007199254740991.0 && std::floor(value) == value)) return false;
  *whole = static_cast<uint64_t>(value);
  return true;
}

size_t AreaSize(uint32_t entries, uint32_t pieces) {
  return entries * (sizeof(AreaRequest) + sizeof(AreaCompletion)) + pieces * sizeof(AreaPiece);
}

std::unique_ptr<IoEngine> CreateEngine(const Napi::Value& name, IoTable* requests) {
  Napi::Env env = name.Env();
  const std::string wanted = name.IsUndefined() ? "" : ToString(name, "engine");
  int error = 0;
  if (wanted == "" || wanted == "io_uring") {
    const char* call = "";
    auto engine = CreateUringEngine(requests, &error, &call);
    if (engine) return engine;
    if (wanted != "") ThrowErrno(env, error, call, "I/O ring");
  } else if (wanted != "threads") {
    throw Napi::RangeError::New(env, "engine must be io_uring or threads");
  }
  auto engine = CreateThreadEngine(requests, &error);
  if (!engine) ThrowErrno(env, error, "eventfd", "I/O ring");
  return engine;
}

}  // namespace

void IoRing::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("IoRing", DefineClass(env, "IoRing",
                                    {
                                        InstanceAccessor("engine", &IoRing::GetEngine, nullptr),
                                        InstanceMethod("area", &IoRing::Area),
                                        InstanceMethod("register", &IoRing::Register),
                                        InstanceMethod("unregister", &IoRing::Unregister),
                                        InstanceMethod("submit", &IoRing::Submit),
                                        InstanceMethod("reap", &IoRing::Reap),
                                        InstanceMethod("wait", &IoRing::Wait),
                                        InstanceMethod("close", &IoRing::Close),
                                    }));
}

IoRing::IoRing(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      entries_(ToUint32(info[1], "entries", kMaxEntries)),
      area_pieces_(ToUint32(info[2], "pieces", kMaxPieces)),
      reactor_(AddonData::Of(info.Env()).reactor),
      all_(AddonData::Of(info.Env()).rings),
      area_(std::make_shared<std::vector<uint64_t>>(AreaSize(entries_, area_pieces_) / sizeof(uint64_t))),
      requests_(entries_) {
  if (entries_ == 0) throw Napi::RangeError::New(info.Env(), "entries must be above 0");
  requests_in_ = reinterpret_cast<AreaRequest*>(area_->data());
  pieces_in_ = reinterpret_cast<AreaPiece*>(requests_in_ + entries_);
  completions_ = reinterpret_cast<AreaCompletion*>(pieces_in_ + area_pieces_);
  over_.reserve(entries_);
  engine_ = CreateEngine(info[0], &requests_);
  reactor_->Add(info.Env(), engine_->wake_fd(), this);
  all_->insert(this);
}

IoRing::~IoRing() { Shutdown(); }

void IoRing::Shutdown() {
  if (!engine_) return;
  all_->erase(this);
  reactor_->Remove(engine_->wake_fd(), this);
  engine_->Shutdown();
  engine_.reset();
}

void IoRing::Open(Napi::Env env) const {
  if (!engine_) ThrowClosed(env, "I/O ring");
}

void IoRing::Activate(bool active) {
  if (active == active_) return;
  active_ = active;
  if (active) {
    Ref();
    reactor_->Ref();
  } else {
    reactor_->Unref();
    Unref();
  }
}

Napi::Value IoRing::GetEngine(const Napi::CallbackInfo& info) {
  Open(info.Env());
  return Napi::String::New(info.Env(), engine_->name());
}

Napi::Value IoRing::Area(const Napi::CallbackInfo& info) {
  return ShareBytes(info.Env(), area_->data(), area_->size() * sizeof(uint64_t), area_);
}

Napi::Value IoRing::Register(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Open(env);
  if (!info[0].IsArrayBuffer()) throw Napi::TypeError::New(env, "buffer must be an ArrayBuffer");
  auto array = info[0].As<Napi::ArrayBuffer>();
  const uint64_t offset = ToUint(info[1], "offset");
  const uint64_t length = ToUint(info[2], "length");
  if (offset > array.ByteLength() || length > array.ByteLength() - offset) {
    throw Napi::RangeError::New(env, "the range ends after the buffer");
  }
  if (free_buffers_.empty()) {
    if (buffers_.size() == kMaxBuffers) throw Napi::RangeError::New(env, "too many buffers are registered");
    free_buffers_.push_back(static_cast<uint32_t>(buffers_.size()));
    buffers_.emplace_back();
  }
  const uint32_t index = free_buffers_.back();
  Buffer& buffer = buffers_[index];
  buffer.held = Napi::Reference<Napi::ArrayBuffer>::New(array, 1);
  free_buffers_.pop_back();
  buffer.base = static_cast<uint8_t*>(array.Data()) + offset;
  buffer.size = length;
  buffer.registered = true;
  return Napi::Number::New(env, buffer.generation << kIndexBits | index);
}

IoRing::Buffer* IoRing::Find(int32_t number) {
  const uint32_t index = static_cast<uint32_t>(number) & (kMaxBuffers - 1);
  if (number < 0 || index >= buffers_.size()) return nullptr;
  Buffer& buffer = buffers_[index];
  const bool current = buffer.generation == static_cast<uint32_t>(number) >> kIndexBits;
  return buffer.registered && current ? &buffer : nullptr;
}

void IoRing::Unregister(const Napi::CallbackInfo& info) {
  Open(info.Env());
  Buffer* buffer = Find(static_cast<int32_t>(ToUint32(info[0], "buffer", INT32_MAX)));
  if (buffer == nullptr) throw Napi::RangeError::New(info.Env(), "there is no such buffer");
  buffer->registered = false;
  buffer->generation = (buffer->generation + 1) % kGenerations;
  Let(buffer);
}

// Forgets a buffer that nobody names and nothing uses any more.
void IoRing::Let(Buffer* buffer) {
  if (buffer->registered || buffer->users > 0) return;
  buffer->held.Reset();
  free_buffers_.push_back(static_cast<uint32_t>(buffer - buffers_.data()));
}

// Takes the slots of a batch. Where one is not there to be taken there is no way to tell of its request's end.
void IoRing::Claim(Napi::Env env, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    const auto slot = static_cast<uint32_t>(requests_in_[i].slot);
    if (slot < entries_ && !requests_[slot].busy) {
      requests_[slot].busy = true;
      continue;
    }
    while (i-- > 0) requests_[static_cast<uint32_t>(requests_in_[i].slot)].busy = false;
    throw Napi::RangeError::New(env, "a request's slot is not free");
  }
}

int IoRing::AddPiece(const AreaPiece& piece, IoRequest* to) {
  Buffer* buffer = Find(piece.buffer);
  uint64_t offset;
  if (buffer == nullptr || !ToWhole(piece.offset, &offset) || offset > buffer->size ||
      piece.length > buffer->size - offset) {
    return EFAULT;
  }
  if (piece.length == 0) return 0;
  to->pieces.push_back({buffer->base + offset, piece.length});
  to->buffers.push_back(static_cast<uint32_t>(buffer - buffers_.data()));
  buffer->users++;
  to->length += piece.length;
  return 0;
}

// Returns 0, or the errno of a request that makes no sense. `used` counts the area's pieces.
int IoRing::Prepare(const AreaRequest& from, size_t* used, IoRequest* to) {
  to->Begin();
  to->fd = from.fd;
  if (from.pieces > area_pieces_ - *used) return EINVAL;
  const AreaPiece* pieces = pieces_in_ + *used;
  *used += from.pieces;
  if (from.operation < 0 || from.operation >= kIoOperations) return EINVAL;
  to->operation = static_cast<IoOperation>(from.operation);
  if (!ToWhole(from.offset, &to->offset) || !ToWhole(from.length, &to->length)) return EINVAL;
  if (!to->transfers()) return 0;
  to->length = 0;
  for (uint32_t i = 0; i < from.pieces; i++) {
    const int error = AddPiece(pieces[i], to);
    if (error != 0) return error;
  }
  return 0;
}

Napi::Value IoRing::Submit(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Open(env);
  const uint32_t count = ToUint32(info[0], "count", entries_);
  Claim(env, count);
  size_t used = 0;
  in_flight_ += count;
  for (uint32_t i = 0; i < count; i++) {
    const auto slot = static_cast<uint32_t>(requests_in_[i].slot);
    IoRequest& request = requests_[slot];
    const int error = Prepare(requests_in_[i], &used, &request);
    if (error != 0) request.Fail(error);
    if (error != 0 || (request.transfers() && request.length == 0)) {
      over_.push_back(slot);
    } else {
      engine_->Start(slot);
    }
  }
  engine_->Flush();
  return Napi::Number::New(env, Deliver());
}

void IoRing::DropPieces(IoRequest* request) {
  for (const uint32_t index : request->buffers) {
    Buffer& buffer = buffers_[index];
    buffer.users--;
    Let(&buffer);
  }
  request->pieces.clear();
  request->buffers.clear();
  if (request->pieces.capacity() <= kKeptPieces) return;
  request->pieces.shrink_to_fit();
  request->buffers.shrink_to_fit();
}

uint32_t IoRing::Deliver() {
  engine_->Reap(&over_);
  const auto count = static_cast<uint32_t>(over_.size());
  for (uint32_t i = 0; i < count; i++) {
    IoRequest& request = requests_[over_[i]];
    completions_[i] = {static_cast<double>(request.result), over_[i], 0};
    request.busy = false;
    DropPieces(&request);
  }
  over_.clear();
  in_flight_ -= count;
  Activate(in_flight_ > 0);
  return count;
}

Napi::Value IoRing::Reap(const Napi::CallbackInfo& info) {
  Open(info.Env());
  return Napi::Number::New(info.Env(), Deliver());
}

Napi::Value IoRing::Wait(const Napi::CallbackInfo& info) {
  Open(info.Env());
  uint32_t count = Deliver();
  while (count == 0 && in_flight_ > 0) {
    engine_->Wait();
    count = Deliver();
  }
  return Napi::Number::New(info.Env(), count);
}

void IoRing::OnReadable(Napi::Env env) {
  const Napi::Object self = Value();
  if (self.IsEmpty()) return;
  const uint32_t count = Deliver();
  if (count > 0) EmitCallback(env, self, "onCompletions", {Napi::Number::New(env, count)});
}

void IoRing::Close(const Napi::CallbackInfo&) {
  if (!engine_) return;
  Shutdown();
  Activate(false);
  for (Buffer& buffer : buffers_) buffer.held.Reset();
}

}  // namespace tsvm
