#include "shared_bytes.h"

#include <new>
#include <utility>

// What Node-API has no call for. V8 counts the bytes of an ArrayBuffer as what a garbage collection may free, and begins
// one for each guest's RAM: half of the time from a restore to the guest's first instruction. It leaves out those whose
// memory it is told never to free (BackingStore::EmptyDeleter, v8-array-buffer.h). Its headers would tie the addon to
// one version of Node; these are weak, and a Node whose V8 has other ones gets what Node-API has.
#define TSVM_OF_V8 __attribute__((weak, visibility("default")))
namespace v8 {

struct Isolate {
  TSVM_OF_V8 static Isolate* GetCurrent();
};

struct BackingStore {
  TSVM_OF_V8 ~BackingStore();
  TSVM_OF_V8 static void EmptyDeleter(void* data, size_t length, void* hint);
  // Its size is not known here.
  void operator delete(void* place) { ::operator delete(place); }
};

template <typename T>
struct Local {
  T* slot;
};

struct ArrayBuffer {
  TSVM_OF_V8 static std::unique_ptr<BackingStore> NewBackingStore(void* data, size_t length,
                                                                 void (*deleter)(void*, size_t, void*), void* hint);
  TSVM_OF_V8 static Local<ArrayBuffer> New(Isolate* isolate, std::shared_ptr<BackingStore> store);
};

}  // namespace v8

namespace tsvm {
namespace {

using Owner = std::shared_ptr<void>;

bool CanLeaveUncounted() {
  return v8::Isolate::GetCurrent != nullptr && v8::BackingStore::EmptyDeleter != nullptr &&
         v8::ArrayBuffer::NewBackingStore != nullptr && v8::ArrayBuffer::New != nullptr;
}

}  // namespace

Napi::ArrayBuffer ShareBytes(Napi::Env env, void* data, size_t length, std::shared_ptr<void> owner) {
  if (!CanLeaveUncounted()) {
    return Napi::ArrayBuffer::New(
        env, data, length, [](Napi::Env, void*, Owner* held) { delete held; }, new Owner(std::move(owner)));
  }
  auto store = v8::ArrayBuffer::NewBackingStore(data, length, v8::BackingStore::EmptyDeleter, nullptr);
  const auto local = v8::ArrayBuffer::New(v8::Isolate::GetCurrent(), std::move(store));
  // A handle of Node-API is V8's own (js_native_api_v8.h).
  Napi::ArrayBuffer buffer(env, reinterpret_cast<napi_value>(local.slot));
  buffer.AddFinalizer([](Napi::Env, Owner* held) { delete held; }, new Owner(std::move(owner)));
  return buffer;
}

}  // namespace tsvm
