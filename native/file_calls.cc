#include "file_calls.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

#include "addon.h"
#include "arguments.h"
#include "error.h"
#include "shared_bytes.h"

namespace tsvm {

namespace {

constexpr uint32_t kMaxCalls = 1024;
constexpr uint32_t kMaxData = 1 << 20;
constexpr rlim_t kManyFiles = 1 << 19;

}  // namespace

// All calls, then the numbers of those that are over, then the data of each. Pages that nothing touches cost nothing.
struct FileCalls::Area {
  Area(uint32_t count, uint32_t data_size)
      : calls_size(count * sizeof(FileCall)),
        head((calls_size + count * sizeof(uint32_t) + 4095) / 4096 * 4096),
        size(head + size_t{count} * data_size),
        base(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Area() {
    if (base != MAP_FAILED) munmap(base, size);
  }
  FileCall* calls() { return static_cast<FileCall*>(base); }
  uint32_t* over() { return reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(base) + calls_size); }
  uint8_t* data() { return static_cast<uint8_t*>(base) + head; }

  const size_t calls_size;
  const size_t head;
  const size_t size;
  void* const base;
};

void FileCalls::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("FileCalls", DefineClass(env, "FileCalls",
                                       {
                                           InstanceMethod("area", &FileCalls::GetArea),
                                           InstanceMethod("run", &FileCalls::Run),
                                           InstanceMethod("start", &FileCalls::Start),
                                           InstanceMethod("openFolder", &FileCalls::OpenFolder),
                                           InstanceMethod("fileLimit", &FileCalls::FileLimit),
                                           InstanceMethod("close", &FileCalls::Close),
                                       }));
}

FileCalls::FileCalls(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      count_(ToUint32(info[0], "count", kMaxCalls)),
      data_size_(ToUint32(info[1], "data size", kMaxData)),
      reactor_(AddonData::Of(info.Env()).reactor),
      all_(AddonData::Of(info.Env()).file_calls),
      area_(std::make_shared<Area>(count_, data_size_)),
      busy_(count_, false) {
  Napi::Env env = info.Env();
  if (count_ == 0 || data_size_ < 2 * kFileResultAt || data_size_ % 8 != 0) {
    throw Napi::RangeError::New(env, "file calls need a number and room for data");
  }
  if (area_->base == MAP_FAILED) ThrowErrno(env, ENOMEM, "mmap", "file calls");
  int error = 0;
  operations_ = std::make_unique<FileOperations>(&error);
  if (error != 0) ThrowErrno(env, error, "open", "/proc/self/fd");
  Fd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) ThrowErrno(env, errno, "eventfd", "file calls");
  over_.reserve(count_);
  workers_ = std::make_unique<FileWorkers>(std::move(wake), [this](uint32_t call) { Perform(call); });
  reactor_->Add(env, workers_->wake_fd(), this);
  all_->insert(this);
}

FileCalls::~FileCalls() { Shutdown(); }

void FileCalls::Shutdown() {
  if (!workers_) return;
  all_->erase(this);
  reactor_->Remove(workers_->wake_fd(), this);
  workers_->Shutdown();
  workers_.reset();
  operations_.reset();
}

void FileCalls::Activate(bool active) {
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

Napi::Value FileCalls::GetArea(const Napi::CallbackInfo& info) {
  return ShareBytes(info.Env(), area_->base, area_->size, area_);
}

void FileCalls::Perform(uint32_t call) {
  operations_->Perform(area_->calls() + call, area_->data() + size_t{call} * data_size_, data_size_);
}

// The number of a call that no thread has.
uint32_t FileCalls::Free(const Napi::CallbackInfo& info) const {
  if (!workers_) ThrowClosed(info.Env(), "file calls");
  const uint32_t call = ToUint32(info[0], "call", count_ - 1);
  if (busy_[call]) throw Napi::Error::New(info.Env(), "the call is being carried out");
  return call;
}

// run(call): carries it out; its result, which is in the area as well.
Napi::Value FileCalls::Run(const Napi::CallbackInfo& info) {
  const uint32_t call = Free(info);
  Perform(call);
  return Napi::Number::New(info.Env(), area_->calls()[call].result);
}

// start(call): has a thread carry it out; `onCompletions` tells when it is over.
void FileCalls::Start(const Napi::CallbackInfo& info) {
  const uint32_t call = Free(info);
  busy_[call] = true;
  in_flight_++;
  Activate(true);
  workers_->Start(call);
}

void FileCalls::OnReadable(Napi::Env env) {
  const Napi::Object self = Value();
  if (self.IsEmpty() || !workers_) return;
  workers_->Reap(&over_);
  const auto count = static_cast<uint32_t>(over_.size());
  for (uint32_t i = 0; i < count; i++) {
    area_->over()[i] = over_[i];
    busy_[over_[i]] = false;
  }
  over_.clear();
  in_flight_ -= count;
  Activate(in_flight_ > 0);
  if (count > 0) EmitCallback(env, self, "onCompletions", {Napi::Number::New(env, count)});
}

// openFolder(call, path): an O_PATH descriptor of a directory, whose attributes are in the call then.
Napi::Value FileCalls::OpenFolder(const Napi::CallbackInfo& info) {
  const uint32_t call = Free(info);
  const std::string path = ToString(info[1], "path");
  const int fd = operations_->OpenFolder(path.c_str(), &area_->calls()[call].attributes);
  if (fd < 0) ThrowErrno(info.Env(), -fd, "openat2", path.c_str());
  return Napi::Number::New(info.Env(), fd);
}

// fileLimit(): how many descriptors the process may have, as many as it can get.
Napi::Value FileCalls::FileLimit(const Napi::CallbackInfo& info) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) ThrowErrno(info.Env(), errno, "getrlimit", "RLIMIT_NOFILE");
  // Above the hard limit is root's alone.
  for (const rlim_t wanted : {std::max(limit.rlim_max, kManyFiles), limit.rlim_max}) {
    const rlimit raised = {wanted, wanted};
    if (limit.rlim_cur >= wanted || setrlimit(RLIMIT_NOFILE, &raised) != 0) continue;
    limit = raised;
    break;
  }
  return Napi::Number::New(info.Env(), static_cast<double>(limit.rlim_cur));
}

void FileCalls::Close(const Napi::CallbackInfo&) {
  Shutdown();
  in_flight_ = 0;
  Activate(false);
}

}  // namespace tsvm
