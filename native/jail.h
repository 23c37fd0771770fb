// What a process gives up for ever: files, system calls, limits. For src/kvm/jail.ts.
#pragma once

#include <napi.h>

namespace tsvm {

void DefineJail(Napi::Env env, Napi::Object exports);

}  // namespace tsvm
