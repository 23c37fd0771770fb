// Calls on files as JavaScript makes them: each has a place in a shared area, is carried out at once or by a thread,
// and has its results there.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "file_operation.h"
#include "file_workers.h"
#include "reactor.h"

namespace tsvm {

class FileCalls : public Napi::ObjectWrap<FileCalls>, public Watcher {
 public:
  static void Define(Napi::Env env, Napi::Object exports);
  explicit FileCalls(const Napi::CallbackInfo& info);
  ~FileCalls() override;
  void OnReadable(Napi::Env env) override;
  // The environment ends: no thread touches the area any more when this returns. Calls no JavaScript.
  void Shutdown();

 private:
  struct Area;

  Napi::Value GetArea(const Napi::CallbackInfo& info);
  Napi::Value Run(const Napi::CallbackInfo& info);
  void Start(const Napi::CallbackInfo& info);
  Napi::Value OpenFolder(const Napi::CallbackInfo& info);
  Napi::Value FileLimit(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  uint32_t Free(const Napi::CallbackInfo& info) const;
  void Perform(uint32_t call);
  void Activate(bool active);

  const uint32_t count_;
  const uint32_t data_size_;
  std::shared_ptr<Reactor> reactor_;
  std::shared_ptr<std::set<FileCalls*>> all_;
  // an ArrayBuffer of JavaScript's lies over it
  std::shared_ptr<Area> area_;
  std::unique_ptr<FileOperations> operations_;
  std::unique_ptr<FileWorkers> workers_;
  // by call: a thread has it
  std::vector<bool> busy_;
  std::vector<uint32_t> over_;
  uint32_t in_flight_ = 0;
  bool active_ = false;
};

}  // namespace tsvm
