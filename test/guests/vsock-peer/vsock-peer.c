// What a guest does with AF_VSOCK sockets in the tests:
//   vsock-peer echo-listen PORT           echoes every connection until its end, then ends it
//   vsock-peer echo-connect PORT COUNT    the same with so many connections to the host at once
//   vsock-peer send PORT BYTES            sends a pattern to the host and ends that half; prints what it hears then
//   vsock-peer sink PORT GATE             reads from the host once the file GATE is there; prints how many bytes
//   vsock-peer flood PORT                 sends until that fails, and prints why
#include <errno.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned char buffer[65536];

static void fail(const char *what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

static struct sockaddr_vm address(unsigned cid, const char *port) {
  struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = cid};
  to.svm_port = (unsigned)strtoul(port, NULL, 10);
  return to;
}

static int stream(void) {
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  return fd;
}

static int connected(const char *port) {
  struct sockaddr_vm to = address(VMADDR_CID_HOST, port);
  int fd = stream();
  if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
  return fd;
}

static int write_all(int fd, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t count = write(fd, buffer + done, length - done);
    if (count < 0) return -1;
    done += (size_t)count;
  }
  return 0;
}

static void echo(int fd) {
  ssize_t count;
  while ((count = read(fd, buffer, sizeof buffer)) > 0)
    if (write_all(fd, (size_t)count) < 0) fail("write");
  if (count < 0) fail("read");
  shutdown(fd, SHUT_WR);
}

static void echo_listen(const char *port) {
  struct sockaddr_vm at = address(VMADDR_CID_ANY, port);
  int listener = stream();
  if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0) fail("bind");
  if (listen(listener, 128) < 0) fail("listen");
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) fail("accept");
    if (fork() == 0) {
      echo(fd);
      exit(0);
    }
    close(fd);
  }
}

static void echo_connect(const char *port, int count) {
  for (int i = 0; i < count; i++) {
    if (fork() == 0) {
      echo(connected(port));
      exit(0);
    }
  }
  int failed = 0;
  for (int status; wait(&status) > 0;) failed += status != 0;
  printf("%d of %d failed\n", failed, count);
}

static void send_pattern(const char *port, size_t length) {
  int fd = connected(port);
  for (size_t at = 0; at < length;) {
    size_t size = length - at < sizeof buffer ? length - at : sizeof buffer;
    for (size_t i = 0; i < size; i++) buffer[i] = (unsigned char)((at + i) * 31 + ((at + i) >> 8) * 17);
    if (write_all(fd, size) < 0) fail("write");
    at += size;
  }
  if (shutdown(fd, SHUT_WR) < 0) fail("shutdown");
  ssize_t count;
  while ((count = read(fd, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, (size_t)count, stdout);
  if (count < 0) fail("read");
}

static void sink(const char *port, const char *gate) {
  int fd = connected(port);
  while (access(gate, F_OK) < 0) usleep(50000);
  size_t total = 0, wrong = 0;
  ssize_t count;
  while ((count = read(fd, buffer, sizeof buffer)) > 0) {
    for (ssize_t i = 0; i < count; i++, total++)
      wrong += buffer[i] != (unsigned char)(total * 31 + (total >> 8) * 17);
  }
  if (count < 0) fail("read");
  printf("%zu bytes, %zu wrong\n", total, wrong);
}

static void flood(const char *port) {
  int fd = connected(port);
  signal(SIGPIPE, SIG_IGN);
  while (write_all(fd, sizeof buffer) == 0) continue;
  fail("write");
}

int main(int argc, char **argv) {
  const char *verb = argc > 2 ? argv[1] : "";
  setvbuf(stdout, NULL, _IONBF, 0);
  if (strcmp(verb, "echo-listen") == 0) echo_listen(argv[2]);
  else if (strcmp(verb, "echo-connect") == 0 && argc > 3) echo_connect(argv[2], atoi(argv[3]));
  else if (strcmp(verb, "send") == 0 && argc > 3) send_pattern(argv[2], strtoul(argv[3], NULL, 10));
  else if (strcmp(verb, "sink") == 0 && argc > 3) sink(argv[2], argv[3]);
  else if (strcmp(verb, "flood") == 0) flood(argv[2]);
  else return 2;
  return 0;
}
