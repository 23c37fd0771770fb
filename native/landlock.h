// Landlock (landlock(7)): which files, ports and processes this process may still use, whatever its user may.
#pragma once

#include <string>
#include <vector>

namespace tsvm {

// What may be done with a file, or with everything in and below a folder. Nothing may ever be executed.
enum class PathAccess { kRead, kWrite, kDevice };

struct PathRule {
  std::string path;
  PathAccess access;
};

// The version of the kernel's interface; a negative errno value where it has none, or has it switched off.
int LandlockAbi();

// Confines all threads for ever. Returns 0 or an errno value, with the path that it is about where it is about one.
int ConfineToPaths(int abi, const std::vector<PathRule>& rules, std::string* failed);

}  // namespace tsvm
