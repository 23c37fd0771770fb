#include "memory_image.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "arguments.h"
#include "error.h"
#include "page_map.h"
#include "promise_worker.h"

namespace tsvm {

namespace {

constexpr uint64_t kMaxBlock = uint64_t{1} << 30;
// close_range(2), which headers of some distributions do not know
constexpr long kCloseRange = 436;
// A write of more gains nothing.
constexpr uint64_t kMaxWrite = uint64_t{1} << 22;

bool IsZero(const uint8_t* page) {
  for (uint64_t at = 0; at < kPage; at += 64) {
    uint64_t words[8];
    std::memcpy(words, page + at, sizeof(words));
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0) return false;
  }
  return true;
}

// Nothing here may allocate or lock: it runs in a child of a process with threads, too.
int WriteAll(int fd, const uint8_t* from, uint64_t size, uint64_t offset) {
  while (size > 0) {
    const ssize_t written = pwrite(fd, from, std::min(size, kMaxWrite), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return EIO;
    from += written;
    offset += static_cast<uint64_t>(written);
    size -= static_cast<uint64_t>(written);
  }
  return 0;
}

struct Job {
  std::shared_ptr<Mapping> mapping;
  std::shared_ptr<const std::vector<bool>> blocks;
  uint64_t block;
  int fd;

  // Writes the pages that are not zeros to where they lie in memory. Returns an errno value, or 0.
  int Run(uint64_t* bytes) const {
    const uint8_t* base = mapping->base();
    for (uint64_t i = 0; i < blocks->size(); i++) {
      if (!(*blocks)[i]) continue;
      const uint64_t end = std::min(mapping->size(), (i + 1) * block);
      for (uint64_t at = i * block; at < end;) {
        uint64_t run = at;
        while (run < end && !IsZero(base + run)) run += kPage;
        if (run > at) {
          const int error = WriteAll(fd, base + at, run - at, at);
          if (error != 0) return error;
          *bytes += run - at;
        }
        at = run + kPage;
      }
    }
    return 0;
  }
};

// What a child tells, in memory that both have.
struct Outcome {
  // 1 once it holds no descriptor but the file's
  std::atomic<uint32_t> closed;
  int error;
  uint64_t bytes;
};

// The child takes a moment where there is a processor for it; without, it is waited for as long as this.
constexpr int kCloseLimitSeconds = 10;

void CloseAllBut(int fd) {
  if (fd > 0) syscall(kCloseRange, 0u, static_cast<unsigned>(fd) - 1, 0u);
  syscall(kCloseRange, static_cast<unsigned>(fd) + 1, ~0u, 0u);
}

class Child {
 public:
  // Returns an errno value, or 0.
  int Start(const Job& job) {
    shared_ = mmap(nullptr, sizeof(Outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared_ == MAP_FAILED) return errno;
    uint8_t* base = job.mapping->base();
    const uint64_t size = job.mapping->size();
    if (madvise(base, size, MADV_DOFORK) < 0) return errno;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    // fork(2) of the C library would run handlers, which take locks that other threads may have.
    const long pid = syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (pid == 0) {
      // It ends with the VM.
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      auto* outcome = static_cast<Outcome*>(shared_);
      CloseAllBut(job.fd);
      outcome->closed.store(1);
      syscall(SYS_futex, &outcome->closed, FUTEX_WAKE, 1, nullptr, nullptr, 0);
      outcome->error = job.Run(&outcome->bytes);
      _exit(0);
    }
    const int error = pid < 0 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    madvise(base, size, MADV_DONTFORK);
    pid_ = static_cast<pid_t>(pid);
    if (error == 0) AwaitClosed();
    return error;
  }

  // Locks of open files are the child's too until it has closed them: who closes one expects the lock to go.
  void AwaitClosed() {
    auto* outcome = static_cast<Outcome*>(shared_);
    const timespec limit{kCloseLimitSeconds, 0};
    while (outcome->closed.load() == 0) {
      const long result = syscall(SYS_futex, &outcome->closed, FUTEX_WAIT, 0, &limit, nullptr, 0);
      if (result < 0 && errno == ETIMEDOUT) return;
    }
  }

  int Wait(uint64_t* bytes) {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0) {
      if (errno != EINTR) return errno;
    }
    pid_ = -1;
    const auto* outcome = static_cast<const Outcome*>(shared_);
    *bytes = outcome->bytes;
    // Killed by the kernel for want of memory, most likely.
    return WIFEXITED(status) ? outcome->error : ENOMEM;
  }

  ~Child() {
    if (shared_ != MAP_FAILED) munmap(shared_, sizeof(Outcome));
  }

 private:
  void* shared_ = MAP_FAILED;
  pid_t pid_ = -1;
};

}  // namespace

void MemoryImage::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("MemoryImage", DefineClass(env, "MemoryImage",
                                         {
                                             InstanceMethod("extents", &MemoryImage::Extents),
                                             InstanceMethod("write", &MemoryImage::Write),
                                         }));
}

MemoryImage::MemoryImage(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  mapping_ = Memory::MappingOf(info[0]);
  const double pagemap = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : -1;
  const bool changed_only = ToBool(info[2], "changedOnly");
  block_ = ToUint(info[3], "block", kMaxBlock);
  if (block_ == 0 || block_ % kPage != 0) throw Napi::RangeError::New(env, "a block is whole pages");
  blocks_ = std::make_shared<std::vector<bool>>((mapping_->size() + block_ - 1) / block_, false);
  Find(env, pagemap < 0 ? -1 : ToFd(info[1], "pagemap"), changed_only);
}

// Pages that were never touched need not be looked at, and those of the file below are there already.
void MemoryImage::Find(Napi::Env env, int pagemap, bool changed_only) {
  // Of shared memory the pages of this process's page tables are not all that there are.
  const bool known = pagemap >= 0 && !mapping_->shared() && mapping_->page_size() == kPage;
  if (!known && changed_only) ThrowErrno(env, ENOTSUP, "pread", "changes of memory, without a page map");
  if (!known || (mapping_->layered() && !changed_only)) {
    blocks_->assign(blocks_->size(), true);
    return;
  }
  const uint64_t first = reinterpret_cast<uintptr_t>(mapping_->base()) / kPage;
  const uint64_t pages = mapping_->size() / kPage;
  // What was copied is no file's any more: whether it has changed is seen in its contents.
  std::vector<bool> copied(pages, false);
  if (changed_only) {
    for (const Range& range : mapping_->copied()) {
      for (uint64_t at = range.offset; at < range.offset + range.length; at += kPage) {
        copied[at / kPage] = true;
        if (std::memcmp(mapping_->base() + at, mapping_->source()->base() + at, kPage) != 0) (*blocks_)[at / block_] = true;
      }
    }
  }
  std::vector<uint64_t> entries(4096);
  for (uint64_t page = 0; page < pages;) {
    const uint64_t wanted = std::min<uint64_t>(entries.size(), pages - page) * sizeof(uint64_t);
    const ssize_t got = pread(pagemap, entries.data(), wanted, static_cast<off_t>((first + page) * sizeof(uint64_t)));
    if (got < static_cast<ssize_t>(sizeof(uint64_t))) ThrowErrno(env, got < 0 ? errno : EIO, "pread", "page map");
    const uint64_t count = static_cast<uint64_t>(got) / sizeof(uint64_t);
    for (uint64_t i = 0; i < count; i++) {
      const uint64_t entry = entries[i];
      if (copied[page + i] || (entry & (kPresent | kSwapped)) == 0 || (changed_only && (entry & kOfFile) != 0)) continue;
      (*blocks_)[(page + i) * kPage / block_] = true;
    }
    page += count;
  }
}

// Pairs of offset and length: the blocks of the image, neighbours joined.
Napi::Value MemoryImage::Extents(const Napi::CallbackInfo& info) {
  std::vector<double> numbers;
  const auto& blocks = *blocks_;
  for (uint64_t i = 0; i < blocks.size(); i++) {
    if (!blocks[i]) continue;
    const uint64_t from = i;
    while (i + 1 < blocks.size() && blocks[i + 1]) i++;
    numbers.push_back(static_cast<double>(from * block_));
    numbers.push_back(static_cast<double>(std::min((i + 1) * block_, mapping_->size()) - from * block_));
  }
  auto result = Napi::Float64Array::New(info.Env(), numbers.size());
  if (!numbers.empty()) std::memcpy(result.Data(), numbers.data(), numbers.size() * sizeof(double));
  return result;
}

// write(fd, child): a promise of how many bytes were written. With `child` the memory may change from now on.
Napi::Value MemoryImage::Write(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Job job{mapping_, blocks_, block_, ToFd(info[0], "fd")};
  std::shared_ptr<Child> child;
  if (ToBool(info[1], "child")) {
    child = std::make_shared<Child>();
    const int error = child->Start(job);
    if (error != 0) ThrowErrno(env, error, "clone", "a copy of the VM's memory");
  }
  auto work = [job = std::move(job), child = std::move(child)](double* written) {
    uint64_t bytes = 0;
    const int error = child ? child->Wait(&bytes) : job.Run(&bytes);
    *written = static_cast<double>(bytes);
    return error;
  };
  return RunOnThread(env, "pwrite", "memory of a snapshot", std::move(work));
}

}  // namespace tsvm
