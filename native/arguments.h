// Checked arguments of JavaScript calls. All throw TypeError or RangeError that names the argument.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

namespace tsvm {

// A whole number from 0 to 2^53 - 1.
uint64_t ToUint(const Napi::Value& value, const char* name, uint64_t max = (uint64_t{1} << 53) - 1);
// Of a bigint from 0 to 2^64 - 1.
uint64_t ToUint64(const Napi::Value& value, const char* name);
uint32_t ToUint32(const Napi::Value& value, const char* name, uint32_t max = UINT32_MAX);
// A file descriptor number.
int ToFd(const Napi::Value& value, const char* name);
bool ToBool(const Napi::Value& value, const char* name);
// Without NUL characters.
std::string ToString(const Napi::Value& value, const char* name);
Napi::Object ToObject(const Napi::Value& value, const char* name);
// An object of the addon's own class with this tag: any other one must not be unwrapped as one of it.
Napi::Object ToTagged(const Napi::Value& value, const napi_type_tag& tag, const char* otherwise);
// Any typed array: its bytes. Valid until control returns to JavaScript.
struct Bytes {
  uint8_t* data;
  size_t size;
};
Bytes ToBytes(const Napi::Value& value, const char* name);
// The property of an options object, which must be there.
Napi::Value Property(const Napi::Object& object, const char* name);

Napi::Uint8Array CopyToJs(Napi::Env env, const void* data, size_t size);

}  // namespace tsvm
