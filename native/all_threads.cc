#include "all_threads.h"

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <set>
#include <vector>

namespace tsvm {

namespace {

// The one that glibc has for just this (setuid(2), "C library/kernel differences"): its pthread_sigmask() lets nobody
// block it, and Node has threads that block all others. sigaction(3) refuses it, so the system calls are made here.
constexpr int kSignal = 33;
constexpr unsigned long kRestorer = 0x04000000;
// For a thread that runs, microseconds; one that sleeps in the kernel for longer is broken.
constexpr int kStepMicroseconds = 20;
constexpr int kSteps = 5'000'000 / kStepMicroseconds;
constexpr size_t kMaxThreads = 1024;

// What rt_sigaction(2) takes, which is not what the C library shows.
struct KernelAction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  uint64_t mask;
};

std::atomic<int (*)()> g_change;
std::atomic<int> g_error;
// Who has called it.
std::atomic<size_t> g_count;
std::atomic<pid_t> g_called[kMaxThreads];

__attribute__((naked)) void Return() { asm("movl $15, %eax\n\tsyscall"); }

void Handle(int) {
  const int saved = errno;
  const int error = g_change.load()();
  int none = 0;
  if (error != 0) g_error.compare_exchange_strong(none, error);
  const size_t index = g_count.fetch_add(1);
  if (index < kMaxThreads) g_called[index].store(static_cast<pid_t>(syscall(SYS_gettid)));
  errno = saved;
}

int SetAction(const KernelAction* action, KernelAction* old) {
  return static_cast<int>(syscall(SYS_rt_sigaction, kSignal, action, old, sizeof(uint64_t)));
}

bool IsGone(pid_t process, pid_t thread) { return syscall(SYS_tgkill, process, thread, 0) < 0 && errno == ESRCH; }

bool HasCalled(pid_t thread) {
  const size_t count = std::min(g_count.load(), kMaxThreads);
  for (size_t i = 0; i < count; i++) {
    if (g_called[i].load() == thread) return true;
  }
  return false;
}

// Whether all of them have called it, or are no more.
bool AwaitAll(pid_t process, std::vector<pid_t> threads) {
  for (int step = 0; step < kSteps; step++) {
    const auto settled = [&](pid_t thread) { return HasCalled(thread) || IsGone(process, thread); };
    threads.erase(std::remove_if(threads.begin(), threads.end(), settled), threads.end());
    if (threads.empty()) return true;
    const timespec moment{0, kStepMicroseconds * 1000};
    nanosleep(&moment, nullptr);
  }
  return false;
}

// Goes through the list until it has nobody new: what a thread that was not asked yet has made meanwhile is in it.
int InterruptOthers() {
  const pid_t process = getpid();
  std::set<pid_t> asked{static_cast<pid_t>(syscall(SYS_gettid))};
  for (;;) {
    const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir("/proc/self/task"), closedir);
    if (!tasks) return errno;
    std::vector<pid_t> fresh;
    while (const dirent* entry = readdir(tasks.get())) {
      const pid_t thread = std::atoi(entry->d_name);
      if (thread > 0 && asked.insert(thread).second) fresh.push_back(thread);
    }
    if (fresh.empty()) return 0;
    if (asked.size() > kMaxThreads) return EAGAIN;
    for (const pid_t thread : fresh) {
      if (syscall(SYS_tgkill, process, thread, kSignal) < 0 && errno != ESRCH) return errno;
    }
    if (!AwaitAll(process, std::move(fresh))) return ETIMEDOUT;
    if (g_error.load() != 0) return g_error.load();
  }
}

}  // namespace

int OnAllThreads(int (*change)()) {
  KernelAction action{Handle, SA_RESTART | kRestorer, Return, ~uint64_t{0}};
  KernelAction old{};
  g_change = change;
  g_error = 0;
  g_count = 0;
  for (std::atomic<pid_t>& thread : g_called) thread = 0;
  if (SetAction(&action, &old) < 0) return errno;
  const int error = InterruptOthers();
  SetAction(&old, nullptr);
  return error != 0 ? error : change();
}

}  // namespace tsvm
