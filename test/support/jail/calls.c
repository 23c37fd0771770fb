/* System calls that a process in the jail tries, from its own code: loaded as a library, it prints the errno of each. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(name, call) (errno = 0, (long)(call) < 0 ? report(name, errno) : report(name, 0))

static void report(const char *name, int error) { printf("%s %d\n", name, error); }

static void *thread(void *argument) { return argument; }

/* What comes of a program that a copy of this process tries to run. */
static long run_by_a_copy(void) {
  char *const none[] = {"/bin/true", NULL};
  int status = 0;
  const pid_t pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid < 0) return -1;
  if (pid == 0) {
    execve("/bin/true", none, none);
    _exit(errno);
  }
  waitpid(pid, &status, 0);
  errno = WEXITSTATUS(status);
  return errno == 0 ? 0 : -1;
}

/* A copy that ends by itself. */
static long copy(void) {
  const pid_t pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit(0);
  return pid < 0 ? -1 : waitpid(pid, NULL, 0);
}

__attribute__((constructor)) static void calls(void) {
  char *const none[] = {"/bin/true", NULL};
  struct rlimit limit = {64, 64};
  pthread_t id;
  int pair[2];

  TRY("ptrace", ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
  TRY("process_vm_readv", syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
  TRY("execve", execve("/bin/true", none, none));
  TRY("execveat", syscall(SYS_execveat, AT_FDCWD, "/bin/true", none, none, 0));
  TRY("execve by a copy of itself", run_by_a_copy());
  TRY("vfork", syscall(SYS_vfork));
  TRY("clone3", syscall(SYS_clone3, NULL, 0));
  TRY("clone with a namespace",
      syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWUSER, 0, 0, 0, 0));
  TRY("unshare", unshare(CLONE_NEWUSER));
  TRY("setns", setns(0, 0));
  TRY("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL));
  TRY("chroot", chroot("/tmp"));
  TRY("bpf", syscall(SYS_bpf, 0, NULL, 0));
  TRY("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
  TRY("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
  TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
  TRY("io_uring_setup", syscall(SYS_io_uring_setup, 8, NULL));
  TRY("io_uring_register", syscall(SYS_io_uring_register, 0, 0, NULL, 0));
  TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
  TRY("init_module", syscall(SYS_init_module, NULL, 0, ""));
  TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, 0, NULL, 0));
  TRY("setuid", syscall(SYS_setuid, 0));
  TRY("socket AF_INET", socket(AF_INET, SOCK_DGRAM, 0));
  TRY("socket AF_NETLINK", socket(AF_NETLINK, SOCK_RAW, 0));
  TRY("socket AF_VSOCK", socket(AF_VSOCK, SOCK_STREAM, 0));
  TRY("kill of another", kill(getppid(), 0));
  TRY("setting a limit", setrlimit(RLIMIT_NOFILE, &limit));
  TRY("TIOCSTI", ioctl(0, TIOCSTI, "x"));
  TRY("a call of the future", syscall(600));

  TRY("a copy of itself", copy());
  TRY("kill of itself", kill(getpid(), 0));
  TRY("getrlimit", getrlimit(RLIMIT_NOFILE, &limit));
  TRY("socketpair AF_UNIX", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  TRY("pipe", pipe(pair));
  TRY("a thread", -pthread_create(&id, NULL, thread, NULL));
  /* This library is gone in a moment. */
  if (errno == 0) pthread_join(id, NULL);
  fflush(stdout);
}
