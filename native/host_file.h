// What Node.js cannot ask of a file: locks of its open file description, where its data and holes are, and a name for
// one that was made without.
#pragma once

#include <napi.h>

namespace tsvm {

void DefineHostFile(Napi::Env env, Napi::Object exports);

}  // namespace tsvm
