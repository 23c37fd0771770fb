// System calls on files that are named by descriptors, and by single names within a directory: never by paths, so that
// nothing outside of a directory can be reached from it. Knows no JavaScript; may run on any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fd.h"

namespace tsvm {

// src/kvm/file-calls.ts has the same numbers.
enum class FileOperation : uint32_t {
  kLookUp,
  kAttributes,
  kChange,
  kReadLink,
  kMakeLink,
  kMakeNode,
  kMakeFolder,
  kRemove,
  kRename,
  kLink,
  kOpen,
  kCreate,
  kReadFolder,
  kFileSystem,
  kSetXattr,
  kGetXattr,
  kListXattr,
  kRemoveXattr,
  kAllocate,
  kSeek,
  kCopyRange,
  kSync,
  kSyncAll,
  kClose,
  kDropPrivileges,
};
constexpr uint32_t kFileOperations = 25;

// Changes of kChange.
enum FileChange : uint32_t {
  kChangeMode = 1,
  kChangeUser = 2,
  kChangeGroup = 4,
  kChangeSize = 8,
  kChangeAccessTime = 16,
  kChangeModifyTime = 32,
  kAccessTimeNow = 64,
  kModifyTimeNow = 128,
  kDropPrivileges = 256,
};

constexpr uint32_t kNoOwner = UINT32_MAX;

struct FileAttributes {
  uint64_t inode;
  uint64_t size;
  uint64_t blocks;
  int64_t access_seconds;
  int64_t modify_seconds;
  int64_t change_seconds;
  uint32_t access_nanoseconds;
  uint32_t modify_nanoseconds;
  uint32_t change_nanoseconds;
  uint32_t mode;
  uint32_t links;
  uint32_t user;
  uint32_t group;
  uint32_t block_size;
  uint32_t device_major;
  uint32_t device_minor;
  uint32_t special_major;
  uint32_t special_minor;
};

// One call, in an area of memory that JavaScript fills. src/kvm/file-calls.ts has the same layout.
struct FileCall {
  uint32_t operation;
  int32_t fd;
  int32_t other_fd;
  // of open(2), renameat2(2), unlinkat(2), setxattr(2), fallocate(2), lseek(2); FileChange
  uint32_t flags;
  uint32_t mode;
  // of what is made, or changed to; kNoOwner for whatever comes of itself
  uint32_t user;
  uint32_t group;
  // where in the call's data a name, and another name or value, lie
  uint32_t name_at;
  uint32_t name_length;
  uint32_t other_at;
  uint32_t other_length;
  // bytes wanted
  uint32_t room;
  double offset;
  double length;
  double other_offset;
  // a position in a directory, which may be any 64 bits
  uint64_t cookie;
  int64_t access_seconds;
  int64_t modify_seconds;
  uint32_t access_nanoseconds;
  uint32_t modify_nanoseconds;
  // what came of it: 0 or more, or a negative errno
  double result;
  int32_t new_fd;
  int32_t new_node;
  FileAttributes attributes;
  uint8_t unused[40];
};
static_assert(sizeof(FileCall) == 256, "as in src/kvm/file-calls.ts");

// Results that are bytes go to this place in the call's data.
constexpr size_t kFileResultAt = 8192;

class FileOperations {
 public:
  // Where /proc is not what it should be, `error` is an errno.
  explicit FileOperations(int* error);

  // Descriptors that a call makes are close-on-exec. `data` has `size` bytes.
  void Perform(FileCall* call, uint8_t* data, size_t size) const;
  // A directory by its path, for kLookUp; fills the attributes. A negative errno where it is none.
  int OpenFolder(const char* path, FileAttributes* attributes) const;

 private:
  int64_t Carry(FileCall* call, uint8_t* data, size_t size) const;
  int64_t LookUp(FileCall* call, const char* name) const;
  int64_t Change(FileCall* call) const;
  int64_t MakeLink(FileCall* call, const char* name, const uint8_t* target) const;
  int64_t Make(FileCall* call, const char* name) const;
  int64_t Open(FileCall* call, int node) const;
  int64_t Create(FileCall* call, const char* name) const;
  int64_t Finish(FileCall* call, int node) const;
  int64_t Truncate(FileCall* call) const;
  int64_t DropPrivileges(int node) const;
  int64_t Xattr(FileCall* call, const char* name, uint8_t* data, size_t size) const;
  int Reopen(int node, int flags) const;

  // /proc/self/fd, by which an O_PATH descriptor becomes one for use
  Fd descriptors_;
  uint32_t umask_ = 0;
};

}  // namespace tsvm
