// The filter allows what is listed and refuses the rest. A list of what is forbidden would be out of date with the next
// kernel, whose new calls nobody has thought about; one of what is allowed is at worst too short, and how a call is
// refused sees to it that this does little harm: calls of Linux 5.1 and later (number 424 on) fail with ENOSYS, as on
// a kernel that has not got them, which C libraries and Node.js meet with the older call, and older ones with EPERM,
// as if the user had no right to them. Nothing ends the process but the calls of another architecture.
//
// io_uring does not pass through seccomp, so no ring is made from here on, and what the rings that are there may carry
// out was settled when they were made (uring_engine.cc). Nothing may be executed, and no process made but a copy of this
// one: what a VM's process needs others for is started by a helper from before the filter (keeper.cc).
#include "seccomp.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tsvm {

namespace {

constexpr uint32_t kNewCalls = 424;
// Numbers of the x32 interface have this bit.
constexpr uint32_t kX32 = 0x40000000;

// Calls that are allowed with all arguments: what Node.js, the C library and the addon use, and no call that reaches
// other processes, the machine's settings, or the kernel's rarely used parts.
constexpr uint32_t kAllowed[] = {
    // Hot ones.
    SYS_futex, SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
    SYS_preadv2, SYS_pwritev2, SYS_epoll_wait, SYS_epoll_pwait, SYS_io_uring_enter, SYS_recvmsg, SYS_sendmsg,
    SYS_recvfrom, SYS_sendto, SYS_recvmmsg, SYS_sendmmsg, SYS_madvise, SYS_sched_yield, SYS_nanosleep,
    SYS_clock_nanosleep, SYS_clock_gettime, SYS_gettimeofday, SYS_time, SYS_getrandom,
    // Memory.
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_brk, SYS_msync, SYS_mincore, SYS_mlock, SYS_munlock,
    SYS_membarrier, SYS_memfd_create, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_get_mempolicy,
    // Threads, children from before (libuv aborts where it cannot wait for one), signals to oneself, and what is known
    // about oneself.
    SYS_wait4, SYS_waitid,
    SYS_exit, SYS_exit_group, SYS_set_robust_list, SYS_get_robust_list, SYS_set_tid_address, SYS_rseq, SYS_arch_prctl,
    SYS_gettid, SYS_getpid, SYS_getppid, SYS_getpgrp, SYS_getpgid, SYS_getsid, SYS_getuid, SYS_geteuid, SYS_getgid,
    SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_capget, SYS_getpriority, SYS_getrlimit,
    SYS_getrusage, SYS_sched_getaffinity, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_getcpu, SYS_times, SYS_sysinfo, SYS_uname, SYS_clock_getres, SYS_restart_syscall,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait,
    SYS_rt_sigsuspend, SYS_sigaltstack, SYS_pause, SYS_umask,
    // Events.
    SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_epoll_create, SYS_epoll_create1, SYS_epoll_ctl, SYS_eventfd,
    SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_signalfd4, SYS_pipe, SYS_pipe2,
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
    // Unix sockets; which families there are is looked at below.
    SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_getsockname, SYS_getpeername, SYS_getsockopt,
    SYS_setsockopt, SYS_shutdown,
    // Files; which ones is Landlock's to say.
    SYS_open, SYS_openat, SYS_close, SYS_dup, SYS_dup2, SYS_dup3, SYS_fcntl, SYS_flock, SYS_lseek, SYS_stat, SYS_fstat,
    SYS_lstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_access, SYS_faccessat, SYS_getdents64,
    SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_readlink, SYS_readlinkat, SYS_fsync, SYS_fdatasync, SYS_syncfs,
    SYS_sync_file_range, SYS_fallocate, SYS_ftruncate, SYS_truncate, SYS_fadvise64, SYS_readahead,
    SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_mkdir, SYS_mkdirat, SYS_mknodat, SYS_rmdir, SYS_unlink,
    SYS_unlinkat, SYS_rename, SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat,
    SYS_chmod, SYS_fchmod, SYS_fchmodat, SYS_chown, SYS_fchown, SYS_lchown, SYS_fchownat, SYS_utime, SYS_utimes,
    SYS_futimesat, SYS_utimensat, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_getxattr, SYS_lgetxattr,
    SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr,
    SYS_fremovexattr,
    // Newer than the headers that some distributions build with: close_range, openat2, faccessat2, epoll_pwait2,
    // futex_waitv, fchmodat2, futex_wake, futex_wait, futex_requeue, mseal.
    436, 437, 439, 441, 449, 452, 454, 455, 456, 462,
};

// ioctl(2) is by kind: KVM, block devices, clones of files, network interfaces.
constexpr uint32_t kIoctlTypes[] = {0xae, 0x12, 0x94, 0x89};
// Of the kind 'T' there are taps, from 200 on, and of the rest what asks (TCGETS, TIOCGPGRP, SIOCOUTQ, TIOCGWINSZ, FIONREAD) and
// what is about the descriptor (FIONBIO, FIONCLEX, FIOCLEX). TIOCSTI, which types at a terminal, is not among them.
constexpr uint32_t kTtyIoctls[] = {0x5401, 0x540f, 0x5411, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451};
constexpr uint32_t kFirstTapIoctl = 0x54c8;
constexpr uint32_t kLastTapIoctl = 0x54ff;

// PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_CAPBSET_READ, PR_SET_TIMERSLACK,
// PR_GET_TIMERSLACK, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_SET_VMA.
constexpr uint32_t kPrctls[] = {1, 3, 15, 16, 21, 23, 29, 30, 38, 39, 0x53564d41};

constexpr uint32_t kNewNamespaces = 0x7e020080;

// A program as it is put together: each check leaves the number of the call in the accumulator, or returns.
class Filter {
 public:
  Filter() {
    Load(offsetof(seccomp_data, arch));
    Add(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    Return(SECCOMP_RET_KILL_PROCESS);
    LoadNumber();
    Add(BPF_JMP | BPF_JGE | BPF_K, kX32, 0, 1);
    Return(SECCOMP_RET_KILL_PROCESS);
  }

  void Allow(uint32_t call) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1);
    Return(SECCOMP_RET_ALLOW);
  }

  // Allows a call where `check` says so, and refuses it where it comes to its end.
  template <typename Check>
  void When(uint32_t call, Check check) {
    const size_t jump = program_.size();
    Add(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 0);
    check();
    Return(SECCOMP_RET_ERRNO | EPERM);
    program_[jump].jf = static_cast<uint8_t>(program_.size() - jump - 1);
  }

  // The lower half of an argument: the kernel looks at no more of those that are checked, but for pointers.
  void LoadArgument(unsigned index) { Load(offsetof(seccomp_data, args) + 8 * index); }
  void LoadUpperArgument(unsigned index) { Load(offsetof(seccomp_data, args) + 8 * index + 4); }
  void AllowIfEqual(uint32_t value) { Allow(value); }
  void AllowIfBetween(uint32_t first, uint32_t last) {
    Add(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2);
    Add(BPF_JMP | BPF_JGT | BPF_K, last, 1, 0);
    Return(SECCOMP_RET_ALLOW);
  }
  void RefuseUnless(uint32_t value) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
    Return(SECCOMP_RET_ERRNO | EPERM);
  }
  void And(uint32_t mask) { Add(BPF_ALU | BPF_AND | BPF_K, mask); }
  void ShiftRight(uint32_t bits) { Add(BPF_ALU | BPF_RSH | BPF_K, bits); }

  void Finish() {
    Add(BPF_JMP | BPF_JGE | BPF_K, kNewCalls, 0, 1);
    Return(SECCOMP_RET_ERRNO | ENOSYS);
    Return(SECCOMP_RET_ERRNO | EPERM);
  }

  sock_fprog program() { return {static_cast<unsigned short>(program_.size()), program_.data()}; }

 private:
  void Add(unsigned code, uint32_t k, uint8_t jt = 0, uint8_t jf = 0) {
    program_.push_back({static_cast<uint16_t>(code), jt, jf, k});
  }
  void Load(size_t offset) { Add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
  void LoadNumber() { Load(offsetof(seccomp_data, nr)); }
  void Return(uint32_t value) { Add(BPF_RET | BPF_K, value); }

  std::vector<sock_filter> program_;
};

void AllowIoctl(Filter* filter) {
  filter->LoadArgument(1);
  for (const uint32_t request : kTtyIoctls) filter->AllowIfEqual(request);
  filter->AllowIfBetween(kFirstTapIoctl, kLastTapIoctl);
  filter->ShiftRight(8);
  filter->And(0xff);
  for (const uint32_t type : kIoctlTypes) filter->AllowIfEqual(type);
}

// Threads of this process and copies of it, in its namespaces. What clone3(2) is to do lies in memory, where no filter sees it: without
// it the C library takes clone(2).
void AllowThreads(Filter* filter) {
  filter->LoadArgument(0);
  filter->And(kNewNamespaces);
  filter->RefuseUnless(0);
  filter->LoadArgument(0);
  filter->And(CLONE_THREAD);
  filter->AllowIfEqual(CLONE_THREAD);
  // A copy of the process that writes its memory into a file (memory_image.cc); it has the same filter.
  filter->LoadArgument(0);
  filter->AllowIfEqual(SIGCHLD);
}

Filter MakeFilter() {
  const auto self = static_cast<uint32_t>(getpid());
  Filter filter;
  // First, since a vCPU does it with each exit.
  filter.When(SYS_ioctl, [&] { AllowIoctl(&filter); });
  for (const uint32_t call : kAllowed) filter.Allow(call);
  for (const uint32_t call : {SYS_socket, SYS_socketpair}) {
    filter.When(call, [&] {
      filter.LoadArgument(0);
      filter.AllowIfEqual(AF_UNIX);
    });
  }
  for (const uint32_t call : {SYS_kill, SYS_tgkill}) {
    filter.When(call, [&] {
      filter.LoadArgument(0);
      filter.AllowIfEqual(self);
    });
  }
  filter.When(SYS_clone, [&] { AllowThreads(&filter); });
  filter.When(SYS_prctl, [&] {
    filter.LoadArgument(0);
    for (const uint32_t option : kPrctls) filter.AllowIfEqual(option);
  });
  // Limits may be asked for, and not be set.
  filter.When(SYS_prlimit64, [&] {
    filter.LoadUpperArgument(2);
    filter.RefuseUnless(0);
    filter.LoadArgument(2);
    filter.AllowIfEqual(0);
  });
  filter.Finish();
  return filter;
}

}  // namespace

int FilterSystemCalls() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return errno;
  Filter filter = MakeFilter();
  const sock_fprog program = filter.program();
  // Kernels before 5.16 would slow each thread down for what nobody can do here: run code of another's.
  const unsigned flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  // Above 0 it is a thread with a filter of its own.
  return result < 0 ? errno : result > 0 ? EBUSY : 0;
}

}  // namespace tsvm
