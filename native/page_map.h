// Entries of /proc/self/pagemap, Documentation/admin-guide/mm/pagemap.rst
#pragma once

#include <cstdint>

namespace tsvm {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kSwapped = uint64_t{1} << 62;
constexpr uint64_t kOfFile = uint64_t{1} << 61;

}  // namespace tsvm
