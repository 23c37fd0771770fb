// The disk-I/O ring: requests come from JavaScript in a shared area, are checked, carried out by an engine, and
// their results go back through the same area.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "io_engine.h"
#include "reactor.h"

namespace tsvm {

// The area: all requests, then all pieces, then all completions. src/kvm/io-ring.ts has the same layout.
struct AreaRequest {
  double offset;
  double length;
  int32_t slot;
  int32_t operation;
  int32_t fd;
  // how many of the area's pieces, which requests take one after the other
  uint32_t pieces;
};
struct AreaPiece {
  double offset;
  int32_t buffer;
  uint32_t length;
};
struct AreaCompletion {
  double result;
  uint32_t slot;
  uint32_t unused;
};

class IoRing : public Napi::ObjectWrap<IoRing>, public Watcher {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit IoRing(const Napi::CallbackInfo& info);
  ~IoRing() override;
  void OnReadable(Napi::Env env) override;
  // The environment ends: nothing touches memory any more when this returns. Calls no JavaScript.
  void Shutdown();

 private:
  struct Buffer {
    Napi::Reference<Napi::ArrayBuffer> held;
    uint8_t* base = nullptr;
    uint64_t size = 0;
    // pieces in flight
    uint32_t users = 0;
    // an old number does not name whatever has its place now
    uint32_t generation = 0;
    bool registered = false;
  };

  Napi::Value GetEngine(const Napi::CallbackInfo& info);
  Napi::Value Area(const Napi::CallbackInfo& info);
  Napi::Value Register(const Napi::CallbackInfo& info);
  void Unregister(const Napi::CallbackInfo& info);
  Napi::Value Submit(const Napi::CallbackInfo& info);
  Napi::Value Reap(const Napi::CallbackInfo& info);
  Napi::Value Wait(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  void Open(Napi::Env env) const;
  Buffer* Find(int32_t number);
  void Let(Buffer* buffer);
  void Claim(Napi::Env env, uint32_t count);
  int Prepare(const AreaRequest& from, size_t* used, IoRequest* to);
  int AddPiece(const AreaPiece& piece, IoRequest* to);
  void DropPieces(IoRequest* request);
  // Puts what is over into the area; returns how many that are.
  uint32_t Deliver();
  void Activate(bool active);

  const uint32_t entries_;
  const uint32_t area_pieces_;
  std::shared_ptr<Reactor> reactor_;
  std::shared_ptr<std::set<IoRing*>> all_;
  // an ArrayBuffer of JavaScript's lies over it
  std::shared_ptr<std::vector<uint64_t>> area_;
  AreaRequest* requests_in_;
  AreaPiece* pieces_in_;
  AreaCompletion* completions_;

  std::vector<Buffer> buffers_;
  std::vector<uint32_t> free_buffers_;
  IoTable requests_;
  std::unique_ptr<IoEngine> engine_;
  std::vector<uint32_t> over_;
  uint32_t in_flight_ = 0;
  bool active_ = false;
};

}  // namespace tsvm
