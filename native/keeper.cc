// A process beside a VM's own one, which may start none: it runs one command, that of its arguments, whenever it is
// asked to. It is asked on its standard input, a unix socket: descriptors come with bytes of 0, `r` runs the command
// with the first of them as its standard output and error and the others as its descriptors from 3 on, and `k` kills
// it. At its end the keeper says `exit N` or `signal N` in a line. It ends with the socket; what runs then goes on.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fd.h"

namespace {

using tsvm::Fd;

constexpr int kAsker = 0;
constexpr int kFirstExtra = 3;
constexpr size_t kMaxDescriptors = 8;
// What a shell says of a command that it cannot run.
constexpr int kNotRun = 127;

int g_ended[2];

void ChildEnded(int) {
  const int saved = errno;
  // Where the pipe is full it is awake already.
  if (write(g_ended[1], "", 1) < 0) errno = saved;
  errno = saved;
}

class Keeper {
 public:
  explicit Keeper(char** command) : command_(command) {}

  // Until nobody is left who would ask.
  int Serve() {
    for (;;) {
      pollfd events[] = {{kAsker, POLLIN, 0}, {g_ended[0], POLLIN, 0}};
      if (poll(events, 2, -1) < 0 && errno != EINTR) return 1;
      if (events[1].revents != 0) Reap();
      if (events[0].revents != 0 && !Take()) return 0;
    }
  }

 private:
  // Takes a byte. Returns false at the end of the socket.
  bool Take() {
    char byte = 0;
    iovec piece{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(kAsker, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    const cmsghdr* head = CMSG_FIRSTHDR(&header);
    if (head != nullptr && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(head), sizeof fd);
      Fd given(fd);
      if (given_.size() < kMaxDescriptors) given_.push_back(std::move(given));
    }
    if (byte == 'r') Run();
    if (byte == 'k' && child_ > 0) kill(child_, SIGKILL);
    return true;
  }

  void Run() {
    if (child_ <= 0 && !given_.empty()) {
      child_ = fork();
      if (child_ == 0) Become();
      if (child_ < 0) Say("exit", kNotRun);
    }
    given_.clear();
  }

  [[noreturn]] void Become() {
    // In a session of its own no key of a terminal ends it.
    setsid();
    const int none = open("/dev/null", O_RDWR | O_CLOEXEC);
    // Above all numbers that they are to have, so that none is in the way of another.
    for (Fd& fd : given_) fd = Fd(fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirstExtra + static_cast<int>(kMaxDescriptors)));
    dup2(none, 0);
    dup2(given_[0].get(), 1);
    dup2(given_[0].get(), 2);
    for (size_t i = 1; i < given_.size(); i++) dup2(given_[i].get(), kFirstExtra + static_cast<int>(i) - 1);
    signal(SIGCHLD, SIG_DFL);
    execv(command_[0], command_);
    _exit(kNotRun);
  }

  void Reap() {
    char bytes[16];
    while (read(g_ended[0], bytes, sizeof bytes) > 0) continue;
    int status = 0;
    if (child_ <= 0 || waitpid(child_, &status, WNOHANG) != child_) return;
    child_ = 0;
    if (WIFSIGNALED(status)) {
      Say("signal", WTERMSIG(status));
    } else {
      Say("exit", WEXITSTATUS(status));
    }
  }

  void Say(const char* how, int number) {
    char line[32];
    const int length = std::snprintf(line, sizeof line, "%s %d\n", how, number);
    send(kAsker, line, static_cast<size_t>(length), MSG_NOSIGNAL);
  }

  char** const command_;
  std::vector<Fd> given_;
  pid_t child_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || pipe2(g_ended, O_CLOEXEC | O_NONBLOCK) < 0) return 2;
  struct sigaction action {};
  action.sa_handler = ChildEnded;
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  sigaction(SIGCHLD, &action, nullptr);
  fcntl(kAsker, F_SETFD, FD_CLOEXEC);
  return Keeper(arguments + 1).Serve();
}
