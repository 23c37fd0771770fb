#include "landlock.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "all_threads.h"
#include "fd.h"

namespace tsvm {

namespace {

// All of this is newer than the headers that some distributions build with: Linux, include/uapi/linux/landlock.h.
constexpr long kCreateRuleset = 444;
constexpr long kAddRule = 445;
constexpr long kRestrictSelf = 446;
constexpr unsigned kGetVersion = 1;
constexpr int kPathBeneath = 1;

struct Ruleset {
  uint64_t file_access;
  uint64_t network_access;
  uint64_t scoped;
};

struct __attribute__((packed)) PathBeneath {
  uint64_t access;
  int32_t parent;
};

constexpr uint64_t kExecute = 1 << 0;
constexpr uint64_t kWriteFile = 1 << 1;
constexpr uint64_t kReadFile = 1 << 2;
constexpr uint64_t kReadFolder = 1 << 3;
// Rights that later versions added: renaming and linking between folders, truncating, ioctl() of devices.
constexpr uint64_t kRefer = 1 << 13;
constexpr uint64_t kTruncate = 1 << 14;
constexpr uint64_t kIoctlDevice = 1 << 15;
constexpr uint64_t kMakeCharacterDevice = 1 << 6;
constexpr uint64_t kMakeBlockDevice = 1 << 11;
// What makes sense for a file: a rule of a file that has another one is refused.
constexpr uint64_t kOfFiles = kExecute | kWriteFile | kReadFile | kTruncate | kIoctlDevice;

uint64_t FileAccess(int abi) {
  uint64_t access = kRefer - 1;
  if (abi >= 2) access |= kRefer;
  if (abi >= 3) access |= kTruncate;
  if (abi >= 5) access |= kIoctlDevice;
  return access;
}

uint64_t Granted(PathAccess access) {
  switch (access) {
    case PathAccess::kRead:
      return kReadFile | kReadFolder;
    case PathAccess::kDevice:
      return kReadFile | kWriteFile | kIoctlDevice;
    case PathAccess::kWrite:
      break;
  }
  return FileAccess(5) & ~(kExecute | kIoctlDevice | kMakeCharacterDevice | kMakeBlockDevice);
}

Fd CreateRuleset(int abi) {
  Ruleset ruleset{};
  ruleset.file_access = FileAccess(abi);
  // TCP: bind and connect (version 4), with no rule that allows a port.
  if (abi >= 4) ruleset.network_access = 3;
  // Abstract unix sockets of, and signals to, others (version 6).
  if (abi >= 6) ruleset.scoped = 3;
  // An older kernel takes a shorter structure.
  const size_t size = abi >= 6 ? sizeof ruleset : abi >= 4 ? offsetof(Ruleset, scoped) : sizeof ruleset.file_access;
  return Fd(static_cast<int>(syscall(kCreateRuleset, &ruleset, size, 0)));
}

int AddRule(int ruleset, int abi, const PathRule& rule) {
  const Fd path(open(rule.path.c_str(), O_PATH | O_CLOEXEC));
  struct stat status {};
  if (!path || fstat(path.get(), &status) < 0) return errno;
  uint64_t access = Granted(rule.access) & FileAccess(abi);
  if (!S_ISDIR(status.st_mode)) access &= kOfFiles;
  const PathBeneath beneath{access, path.get()};
  return syscall(kAddRule, ruleset, kPathBeneath, &beneath, 0) < 0 ? errno : 0;
}

std::atomic<int> g_ruleset;

int RestrictThread() {
  // Without CAP_SYS_ADMIN it is asked for.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return errno;
  return syscall(kRestrictSelf, g_ruleset.load(), 0) < 0 ? errno : 0;
}

}  // namespace

int LandlockAbi() {
  const long abi = syscall(kCreateRuleset, nullptr, 0, kGetVersion);
  return abi < 0 ? -errno : static_cast<int>(abi);
}

int ConfineToPaths(int abi, const std::vector<PathRule>& rules, std::string* failed) {
  const Fd ruleset = CreateRuleset(abi);
  if (!ruleset) return errno;
  for (const PathRule& rule : rules) {
    const int error = AddRule(ruleset.get(), abi, rule);
    if (error == 0) continue;
    *failed = rule.path;
    return error;
  }
  g_ruleset = ruleset.get();
  return OnAllThreads(RestrictThread);
}

}  // namespace tsvm
