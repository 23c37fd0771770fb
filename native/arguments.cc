#include "arguments.h"

#include <climits>
#include <cmath>
#include <cstring>

namespace tsvm {

uint64_t ToUint(const Napi::Value& value, const char* name, uint64_t max) {
  if (!value.IsNumber()) throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= static_cast<double>(max) && std::floor(number) == number)) {
    throw Napi::RangeError::New(value.Env(), std::string(name) + " must be a whole number from 0 to " +
                                                 std::to_string(max));
  }
  return static_cast<uint64_t>(number);
}

uint64_t ToUint64(const Napi::Value& value, const char* name) {
  bool lossless;
  if (!value.IsBigInt()) throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a bigint");
  const uint64_t number = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw Napi::RangeError::New(value.Env(), std::string(name) + " must be from 0 to 2^64 - 1");
  return number;
}

uint32_t ToUint32(const Napi::Value& value, const char* name, uint32_t max) {
  return static_cast<uint32_t>(ToUint(value, name, max));
}

int ToFd(const Napi::Value& value, const char* name) {
  return static_cast<int>(ToUint(value, name, INT_MAX));
}

bool ToBool(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string ToString(const Napi::Value& value, const char* name) {
  if (!value.IsString()) throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  // The kernel would take what is in front of it: another path than the one that was given.
  if (text.find('\0') != std::string::npos) {
    throw Napi::RangeError::New(value.Env(), std::string(name) + " must not contain a NUL");
  }
  return text;
}

Napi::Object ToObject(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) throw Napi::TypeError::New(value.Env(), std::string(name) + " must be an object");
  return value.As<Napi::Object>();
}

Napi::Object ToTagged(const Napi::Value& value, const napi_type_tag& tag, const char* otherwise) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&tag)) {
    throw Napi::TypeError::New(value.Env(), otherwise);
  }
  return value.As<Napi::Object>();
}

Bytes ToBytes(const Napi::Value& value, const char* name) {
  if (value.IsTypedArray()) {
    size_t length = 0, offset = 0;
    napi_value buffer = nullptr;
    void* data = nullptr;
    napi_typedarray_type type;
    const napi_status status =
        napi_get_typedarray_info(value.Env(), value, &type, &length, &data, &buffer, &offset);
    bool plain = false;
    // Shared buffers may change while they are being checked.
    if (status == napi_ok && napi_is_arraybuffer(value.Env(), buffer, &plain) == napi_ok && plain) {
      return {static_cast<uint8_t*>(data), value.As<Napi::TypedArray>().ByteLength()};
    }
  }
  throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a typed array over an ArrayBuffer");
}

Napi::Value Property(const Napi::Object& object, const char* name) {
  Napi::Value value = object.Get(name);
  if (value.IsUndefined()) throw Napi::TypeError::New(object.Env(), std::string(name) + " is missing");
  return value;
}

Napi::Uint8Array CopyToJs(Napi::Env env, const void* data, size_t size) {
  auto array = Napi::Uint8Array::New(env, size);
  if (size > 0) std::memcpy(array.Data(), data, size);
  return array;
}

}  // namespace tsvm
