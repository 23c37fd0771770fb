#include "jail.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "arguments.h"
#include "error.h"
#include "io_engine.h"
#include "landlock.h"
#include "seccomp.h"

namespace tsvm {

namespace {

constexpr uint32_t kMaxRings = 16;
constexpr uint32_t kMaxEntries = 4096;
constexpr uint32_t kLastAccess = static_cast<uint32_t>(PathAccess::kDevice);

Napi::Value Abi(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), LandlockAbi()); }

// confine(paths, accesses): who are refused a file from here on are told EACCES. Returns the version.
Napi::Value Confine(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Napi::Object paths = ToObject(info[0], "paths");
  const Napi::Object accesses = ToObject(info[1], "accesses");
  const uint32_t count = ToUint32(paths.Get("length"), "length of paths", 65536);
  std::vector<PathRule> rules;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t access = ToUint32(accesses.Get(i), "access", kLastAccess);
    rules.push_back({ToString(paths.Get(i), "path"), static_cast<PathAccess>(access)});
  }
  const int abi = LandlockAbi();
  if (abi < 0) ThrowErrno(env, -abi, "landlock_create_ruleset", "version");
  std::string failed = "ruleset";
  const int error = ConfineToPaths(abi, rules, &failed);
  if (error != 0) ThrowErrno(env, error, "landlock", failed.c_str());
  return Napi::Number::New(env, abi);
}

void Filter(const Napi::CallbackInfo& info) {
  const int error = FilterSystemCalls();
  if (error != 0) ThrowErrno(info.Env(), error, "seccomp", "SECCOMP_SET_MODE_FILTER");
}

void Limit(Napi::Env env, __rlimit_resource resource, rlim_t value, const char* name) {
  rlimit limit{value, value};
  if (setrlimit(resource, &limit) < 0) ThrowErrno(env, errno, "setrlimit", name);
}

// limit(files): no core file, nothing of what a VM has no use for, and as many descriptors as are asked for or are to
// be had. Returns how many that are.
Napi::Value Limits(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const rlim_t wanted = ToUint32(info[0], "files");
  Limit(env, RLIMIT_CORE, 0, "RLIMIT_CORE");
  Limit(env, RLIMIT_MSGQUEUE, 0, "RLIMIT_MSGQUEUE");
  Limit(env, RLIMIT_RTPRIO, 0, "RLIMIT_RTPRIO");
  rlimit files{wanted, wanted};
  if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
    // Above the hard limit is root's alone.
    if (errno != EPERM || getrlimit(RLIMIT_NOFILE, &files) < 0) ThrowErrno(env, errno, "setrlimit", "RLIMIT_NOFILE");
    files.rlim_max = std::min(files.rlim_max, wanted);
    Limit(env, RLIMIT_NOFILE, files.rlim_max, "RLIMIT_NOFILE");
  }
  return Napi::Number::New(env, static_cast<double>(files.rlim_max));
}

Napi::Value Reserve(const Napi::CallbackInfo& info) {
  const uint32_t count = ToUint32(info[0], "count", kMaxRings);
  return Napi::Number::New(info.Env(), ReserveRings(count, ToUint32(info[1], "entries", kMaxEntries)));
}

}  // namespace

void DefineJail(Napi::Env env, Napi::Object exports) {
  Napi::Object calls = Napi::Object::New(env);
  calls.Set("landlockAbi", Napi::Function::New(env, Abi));
  calls.Set("confine", Napi::Function::New(env, Confine));
  calls.Set("filter", Napi::Function::New(env, Filter));
  calls.Set("limit", Napi::Function::New(env, Limits));
  calls.Set("reserveRings", Napi::Function::New(env, Reserve));
  exports.Set("jail", calls);
}

}  // namespace tsvm
