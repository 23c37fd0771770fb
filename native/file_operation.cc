#include "file_operation.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace tsvm {

namespace {

constexpr double kMaxOffset = 9007199254740991.0;
// What one call copies, so that it ends.
constexpr double kMaxCopy = 64.0 * 1024 * 1024;
constexpr uint32_t kModes = 07777;

// A number as text, the name of a descriptor in /proc/self/fd.
struct FdName {
  explicit FdName(int fd) { std::snprintf(text, sizeof text, "%d", fd); }
  char text[16];
};

int64_t Result(int64_t got) { return got < 0 ? -errno : got; }

bool ToOffset(double value, off_t* offset) {
  if (!(value >= 0 && value <= kMaxOffset && std::floor(value) == value)) return false;
  *offset = static_cast<off_t>(value);
  return true;
}

bool Holds(uint32_t at, uint32_t length, size_t size) { return at <= size && length <= size - at; }

// One name within a directory. The only place where names are judged: a path, `.` or `..` is none.
int CopyName(const uint8_t* from, uint32_t length, char* name) {
  if (length == 0) return -ENOENT;
  if (length > NAME_MAX) return -ENAMETOOLONG;
  for (uint32_t i = 0; i < length; i++) {
    if (from[i] == 0 || from[i] == '/') return -EINVAL;
    name[i] = static_cast<char>(from[i]);
  }
  name[length] = 0;
  if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) return -EINVAL;
  return 0;
}

// Whatever is at `name` by now: a link is not followed, a mount point not entered.
int OpenBeneath(int folder, const char* name, uint64_t flags, uint32_t mode = 0) {
  open_how how = {};
  how.flags = flags | O_CLOEXEC | O_NOFOLLOW;
  how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  for (int tries = 0;; tries++) {
    const auto fd = static_cast<int>(syscall(SYS_openat2, folder, name, &how, sizeof how));
    if (fd >= 0) return fd;
    // A rename elsewhere on the host (openat2(2), EAGAIN).
    if ((errno != EAGAIN && errno != EINTR) || tries == 100) return -errno;
  }
}

int64_t Attributes(int fd, FileAttributes* to) {
  struct statx from;
  if (statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &from) != 0)
    return -errno;
  *to = {from.stx_ino,
         from.stx_size,
         from.stx_blocks,
         from.stx_atime.tv_sec,
         from.stx_mtime.tv_sec,
         from.stx_ctime.tv_sec,
         from.stx_atime.tv_nsec,
         from.stx_mtime.tv_nsec,
         from.stx_ctime.tv_nsec,
         from.stx_mode,
         from.stx_nlink,
         from.stx_uid,
         from.stx_gid,
         from.stx_blksize,
         from.stx_dev_major,
         from.stx_dev_minor,
         from.stx_rdev_major,
         from.stx_rdev_minor};
  return 0;
}

uint32_t ProcessUmask() {
  unsigned mask = 022;
  char line[256];
  if (FILE* status = std::fopen("/proc/self/status", "re")) {
    while (std::fgets(line, sizeof line, status) != nullptr) {
      if (std::sscanf(line, "Umask: %o", &mask) == 1) break;
    }
    std::fclose(status);
  }
  return mask;
}

int64_t ReadFolder(FileCall* call, uint8_t* to, size_t room) {
  if ((call->flags & 1) != 0 && lseek(call->fd, static_cast<off_t>(call->cookie), SEEK_SET) < 0) return -errno;
  return Result(syscall(SYS_getdents64, call->fd, to, std::min<size_t>(room, call->room)));
}

int64_t FileSystem(FileCall* call, uint8_t* to, size_t room) {
  struct statfs from;
  if (fstatfs(call->fd, &from) != 0) return -errno;
  const uint64_t numbers[] = {from.f_blocks,
                              from.f_bfree,
                              from.f_bavail,
                              from.f_files,
                              from.f_ffree,
                              static_cast<uint64_t>(from.f_bsize),
                              static_cast<uint64_t>(from.f_namelen),
                              static_cast<uint64_t>(from.f_frsize),
                              static_cast<uint64_t>(from.f_type)};
  if (room < sizeof numbers) return -ERANGE;
  std::memcpy(to, numbers, sizeof numbers);
  return sizeof numbers;
}

int64_t Allocate(FileCall* call) {
  off_t offset, length;
  if (!ToOffset(call->offset, &offset) || !ToOffset(call->length, &length)) return -EFBIG;
  return Result(fallocate(call->fd, static_cast<int>(call->flags), offset, length));
}

int64_t Seek(FileCall* call) {
  off_t offset;
  if (!ToOffset(call->offset, &offset)) return -EOVERFLOW;
  return Result(lseek(call->fd, offset, static_cast<int>(call->flags)));
}

int64_t CopyRange(FileCall* call) {
  off_t from, to;
  if (!ToOffset(call->offset, &from) || !ToOffset(call->other_offset, &to)) return -EOVERFLOW;
  const auto length = static_cast<size_t>(std::clamp(call->length, 0.0, kMaxCopy));
  return Result(copy_file_range(call->fd, &from, call->other_fd, &to, length, 0));
}

int64_t CloseAll(const uint8_t* data, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    int32_t fd;
    std::memcpy(&fd, data + i * sizeof fd, sizeof fd);
    close(fd);
  }
  return 0;
}

}  // namespace

FileOperations::FileOperations(int* error) : descriptors_(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC)) {
  struct statfs system;
  if (!descriptors_ || fstatfs(descriptors_.get(), &system) != 0) {
    *error = errno;
  } else {
    *error = system.f_type == PROC_SUPER_MAGIC ? 0 : ENOTSUP;
  }
  umask_ = ProcessUmask();
}

int FileOperations::OpenFolder(const char* path, FileAttributes* attributes) const {
  open_how how = {};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  Fd fd(static_cast<int>(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how)));
  if (!fd) return -errno;
  const int64_t result = Attributes(fd.get(), attributes);
  if (result < 0) return static_cast<int>(result);
  return fd.Release();
}

void FileOperations::Perform(FileCall* call, uint8_t* data, size_t size) const {
  call->new_fd = call->new_node = -1;
  call->result = static_cast<double>(Carry(call, data, size));
}

int64_t FileOperations::Carry(FileCall* call, uint8_t* data, size_t size) const {
  // JavaScript does not touch the call meanwhile.
  if (!Holds(call->name_at, call->name_length, size) || !Holds(call->other_at, call->other_length, size) ||
      size < kFileResultAt) {
    return -EFAULT;
  }
  char name[NAME_MAX + 1];
  uint8_t* const result = data + kFileResultAt;
  const size_t room = size - kFileResultAt;
  const auto operation = static_cast<FileOperation>(call->operation);
  switch (operation) {
    case FileOperation::kLookUp:
    case FileOperation::kMakeLink:
    case FileOperation::kMakeNode:
    case FileOperation::kMakeFolder:
    case FileOperation::kRemove:
    case FileOperation::kRename:
    case FileOperation::kLink:
    case FileOperation::kCreate:
    case FileOperation::kSetXattr:
    case FileOperation::kGetXattr:
    case FileOperation::kRemoveXattr: {
      const int error = CopyName(data + call->name_at, call->name_length, name);
      if (error != 0) return error;
      break;
    }
    default:
      break;
  }
  switch (operation) {
    case FileOperation::kLookUp:
      return LookUp(call, name);
    case FileOperation::kAttributes:
      return Attributes(call->fd, &call->attributes);
    case FileOperation::kChange:
      return Change(call);
    case FileOperation::kReadLink:
      return Result(readlinkat(call->fd, "", reinterpret_cast<char*>(result), std::min<size_t>(room, PATH_MAX)));
    case FileOperation::kMakeLink:
      return MakeLink(call, name, data + call->other_at);
    case FileOperation::kMakeNode:
    case FileOperation::kMakeFolder:
      return Make(call, name);
    case FileOperation::kRemove:
      return Result(unlinkat(call->fd, name, static_cast<int>(call->flags & AT_REMOVEDIR)));
    case FileOperation::kRename: {
      char to[NAME_MAX + 1];
      const int error = CopyName(data + call->other_at, call->other_length, to);
      if (error != 0) return error;
      return Result(syscall(SYS_renameat2, call->fd, name, call->other_fd, to, call->flags));
    }
    case FileOperation::kLink:
      // AT_EMPTY_PATH would need a capability. A link in /proc leads to the inode, and no further where that is a link.
      if (linkat(descriptors_.get(), FdName(call->fd).text, call->other_fd, name, AT_SYMLINK_FOLLOW) != 0)
        return -errno;
      return Attributes(call->fd, &call->attributes);
    case FileOperation::kOpen:
      return Open(call, call->fd);
    case FileOperation::kCreate:
      return Create(call, name);
    case FileOperation::kReadFolder:
      return ReadFolder(call, result, room);
    case FileOperation::kFileSystem:
      return FileSystem(call, result, room);
    case FileOperation::kSetXattr:
    case FileOperation::kGetXattr:
    case FileOperation::kListXattr:
    case FileOperation::kRemoveXattr:
      return Xattr(call, name, data, size);
    case FileOperation::kAllocate:
      return Allocate(call);
    case FileOperation::kSeek:
      return Seek(call);
    case FileOperation::kCopyRange:
      return CopyRange(call);
    case FileOperation::kSync:
      return Result(call->flags != 0 ? fdatasync(call->fd) : fsync(call->fd));
    case FileOperation::kSyncAll: {
      const Fd fd(Reopen(call->fd, O_RDONLY | O_DIRECTORY));
      return fd ? Result(syncfs(fd.get())) : -EBADF;
    }
    case FileOperation::kClose:
      return CloseAll(data + call->name_at, call->name_length / sizeof(int32_t));
    case FileOperation::kDropPrivileges:
      return DropPrivileges(call->fd);
  }
  return -ENOSYS;
}

// `node` is a regular file or a directory; a negative errno where that cannot be.
int FileOperations::Reopen(int node, int flags) const {
  const int fd = openat(descriptors_.get(), FdName(node).text, flags | O_CLOEXEC | O_NOCTTY);
  return fd < 0 ? -errno : fd;
}

int64_t FileOperations::LookUp(FileCall* call, const char* name) const {
  Fd node(OpenBeneath(call->fd, name, O_PATH));
  if (!node) return node.error();
  const int64_t result = Attributes(node.get(), &call->attributes);
  if (result == 0) call->new_node = node.Release();
  return result;
}

// What a user other than the owner may not keep (inode(7), S_ISUID and S_ISGID).
int64_t FileOperations::DropPrivileges(int node) const {
  FileAttributes now = {};
  const int64_t result = Attributes(node, &now);
  if (result < 0 || !S_ISREG(now.mode)) return result;
  uint32_t mode = now.mode & kModes & ~static_cast<uint32_t>(S_ISUID);
  if ((mode & S_IXGRP) != 0) mode &= ~static_cast<uint32_t>(S_ISGID);
  if (mode == (now.mode & kModes)) return 0;
  return Result(fchmodat(descriptors_.get(), FdName(node).text, mode, 0));
}

int64_t FileOperations::Truncate(FileCall* call) const {
  off_t size;
  if (!ToOffset(call->length, &size)) return -EFBIG;
  if (call->other_fd >= 0) return Result(ftruncate(call->other_fd, size));
  if (!S_ISREG(call->attributes.mode)) return S_ISDIR(call->attributes.mode) ? -EISDIR : -EINVAL;
  const Fd fd(Reopen(call->fd, O_WRONLY | O_NONBLOCK));
  return fd ? Result(ftruncate(fd.get(), size)) : fd.error();
}

int64_t FileOperations::Change(FileCall* call) const {
  int64_t result = Attributes(call->fd, &call->attributes);
  if (result < 0) return result;
  const uint32_t flags = call->flags;
  if ((flags & (kChangeUser | kChangeGroup)) != 0) {
    const uid_t user = (flags & kChangeUser) != 0 ? call->user : kNoOwner;
    const gid_t group = (flags & kChangeGroup) != 0 ? call->group : kNoOwner;
    if (fchownat(call->fd, "", user, group, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return -errno;
  }
  if ((flags & kChangeMode) != 0) {
    if (S_ISLNK(call->attributes.mode)) return -EOPNOTSUPP;
    if (fchmodat(descriptors_.get(), FdName(call->fd).text, call->mode & kModes, 0) != 0) return -errno;
  }
  if ((flags & kChangeSize) != 0) {
    result = Truncate(call);
    if (result < 0) return result;
  }
  if ((flags & kDropPrivileges) != 0) {
    result = DropPrivileges(call->fd);
    if (result < 0) return result;
  }
  if ((flags & (kChangeAccessTime | kChangeModifyTime | kAccessTimeNow | kModifyTimeNow)) != 0) {
    timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    if ((flags & kChangeAccessTime) != 0) times[0] = {call->access_seconds, call->access_nanoseconds};
    if ((flags & kChangeModifyTime) != 0) times[1] = {call->modify_seconds, call->modify_nanoseconds};
    if ((flags & kAccessTimeNow) != 0) times[0] = {0, UTIME_NOW};
    if ((flags & kModifyTimeNow) != 0) times[1] = {0, UTIME_NOW};
    if (utimensat(call->fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return -errno;
  }
  return Attributes(call->fd, &call->attributes);
}

int64_t FileOperations::MakeLink(FileCall* call, const char* name, const uint8_t* target) const {
  char text[PATH_MAX];
  if (call->other_length == 0) return -ENOENT;
  if (call->other_length >= sizeof text) return -ENAMETOOLONG;
  if (std::memchr(target, 0, call->other_length) != nullptr) return -EINVAL;
  std::memcpy(text, target, call->other_length);
  text[call->other_length] = 0;
  if (symlinkat(text, call->fd, name) != 0) return -errno;
  call->mode = S_IFLNK;
  return Finish(call, OpenBeneath(call->fd, name, O_PATH));
}

int64_t FileOperations::Make(FileCall* call, const char* name) const {
  const uint32_t mode = call->mode & kModes;
  if (static_cast<FileOperation>(call->operation) == FileOperation::kMakeFolder) {
    if (mkdirat(call->fd, name, mode) != 0) return -errno;
    call->mode = mode | S_IFDIR;
  } else {
    const uint32_t type = call->mode & S_IFMT;
    // A device node of the guest's making would be one of the host's.
    if (type != S_IFREG && type != S_IFIFO && type != S_IFSOCK && type != 0) return -EPERM;
    if (mknodat(call->fd, name, mode | type, 0) != 0) return -errno;
    call->mode = mode | (type == 0 ? static_cast<uint32_t>(S_IFREG) : type);
  }
  return Finish(call, OpenBeneath(call->fd, name, O_PATH));
}

// Gives what was just made its owner and mode; `node` is its O_PATH descriptor, or a negative errno.
int64_t FileOperations::Finish(FileCall* call, int node) const {
  Fd fd(node);
  if (!fd) return fd.error();
  int64_t result = Attributes(fd.get(), &call->attributes);
  if (result < 0) return result;
  // Somebody on the host has put another thing in its place: that is not ours to change.
  if ((call->attributes.mode & S_IFMT) != (call->mode & S_IFMT)) return -EAGAIN;
  const bool owned = call->user != kNoOwner || call->group != kNoOwner;
  bool changed = false;
  if (owned) {
    FileAttributes folder = {};
    const bool inherits = Attributes(call->fd, &folder) == 0 && (folder.mode & S_ISGID) != 0;
    const gid_t group = inherits ? kNoOwner : call->group;
    // A file system that has no owners keeps what it has.
    fchownat(fd.get(), "", call->user, group, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    changed = true;
  }
  const uint32_t wanted = call->mode & kModes;
  const bool masked = (wanted & umask_) != 0 || (owned && (wanted & (S_ISUID | S_ISGID)) != 0);
  if (masked && !S_ISLNK(call->mode)) {
    const uint32_t inherited = S_ISDIR(call->mode) ? call->attributes.mode & S_ISGID : 0;
    fchmodat(descriptors_.get(), FdName(fd.get()).text, wanted | inherited, 0);
    changed = true;
  }
  if (changed) result = Attributes(fd.get(), &call->attributes);
  if (result == 0) call->new_node = fd.Release();
  return result;
}

// To open a device, a FIFO or a socket would do something on the host, or wait there: only what holds bytes or names is.
int64_t FileOperations::Open(FileCall* call, int node) const {
  int64_t result = Attributes(node, &call->attributes);
  if (result < 0) return result;
  const uint32_t mode = call->attributes.mode;
  const bool folder = (call->flags & O_DIRECTORY) != 0;
  if (folder ? !S_ISDIR(mode) : !S_ISREG(mode)) {
    return folder ? -ENOTDIR : S_ISDIR(mode) ? -EISDIR : S_ISLNK(mode) ? -ELOOP : -ENXIO;
  }
  // O_NONBLOCK: a lease of somebody's is not waited for. I/O on the file is to wait.
  Fd fd(Reopen(node, static_cast<int>(call->flags) | O_NONBLOCK));
  if (!fd) return fd.error();
  if (fcntl(fd.get(), F_SETFL, static_cast<int>(call->flags) & ~(O_NONBLOCK | O_CREAT | O_TRUNC)) != 0) return -errno;
  if ((call->flags & O_TRUNC) != 0) {
    result = Attributes(node, &call->attributes);
    if (result < 0) return result;
  }
  call->new_fd = fd.Release();
  return 0;
}

int64_t FileOperations::Create(FileCall* call, const char* name) const {
  const bool exclusive = (call->flags & O_EXCL) != 0;
  const uint32_t flags = call->flags & ~static_cast<uint32_t>(O_EXCL | O_CREAT);
  const uint32_t mode = call->mode & kModes;
  // A few times, where others on the host make and remove the same name.
  for (int tries = 0; tries < 10; tries++) {
    Fd made(OpenBeneath(call->fd, name, (flags & ~static_cast<uint32_t>(O_TRUNC)) | O_CREAT | O_EXCL | O_NOCTTY, mode));
    if (made) {
      call->mode = mode | S_IFREG;
      // The same inode, whatever is at that name by now.
      const int64_t result = Finish(call, Reopen(made.get(), O_PATH));
      if (result == 0) call->new_fd = made.Release();
      return result;
    }
    if (made.error() != -EEXIST || exclusive) return made.error();
    Fd node(OpenBeneath(call->fd, name, O_PATH));
    if (!node && node.error() == -ENOENT) continue;
    if (!node) return node.error();
    call->flags = flags;
    const int64_t result = Open(call, node.get());
    if (result == 0) call->new_node = node.Release();
    return result;
  }
  return -EAGAIN;
}

// O_PATH descriptors know no extended attributes; their names in /proc do. Only what holds bytes or names has any.
int64_t FileOperations::Xattr(FileCall* call, const char* name, uint8_t* data, size_t size) const {
  char path[40];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", call->fd);
  uint8_t* const result = data + kFileResultAt;
  const size_t room = std::min<size_t>(size - kFileResultAt, call->room);
  switch (static_cast<FileOperation>(call->operation)) {
    case FileOperation::kSetXattr:
      return Result(setxattr(path, name, data + call->other_at, call->other_length, static_cast<int>(call->flags)));
    case FileOperation::kGetXattr:
      return Result(getxattr(path, name, result, room));
    case FileOperation::kListXattr:
      return Result(listxattr(path, reinterpret_cast<char*>(result), room));
    default:
      return Result(removexattr(path, name));
  }
}

}  // namespace tsvm
