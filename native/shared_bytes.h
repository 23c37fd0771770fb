// Memory of the addon's as an ArrayBuffer.
#pragma once

#include <napi.h>

#include <cstddef>
#include <memory>

namespace tsvm {

// An ArrayBuffer over `length` bytes at `data` that are `owner`'s, which is held for as long as JavaScript has it. It must
// not be transferred: who gets it would not hold the owner.
Napi::ArrayBuffer ShareBytes(Napi::Env env, void* data, size_t length, std::shared_ptr<void> owner);

}  // namespace tsvm
