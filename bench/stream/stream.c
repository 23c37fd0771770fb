/* Both ends of TCP streams. `serve PORT`, or `measure ADDRESS PORT MIB`, which says `figure NAME OPERATIONS NANOSECONDS`
 * for so many MiB each way, in pieces of 64 KiB, and for requests with answers of 64 bytes.
 *
 * A connection begins with a letter: p is followed by bytes and answered once they are all there, g is answered by them,
 * r by as many answers as there are requests. Four bytes after the letter tell the count, in network order; the server's
 * first byte comes at once. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { kPiece = 65536, kRequest = 64, kRequests = 100 };

static char piece[kPiece];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int transfer(int fd, size_t size, ssize_t (*call)(int, void *, size_t)) {
  for (size_t at = 0; at < size;) {
    ssize_t n = call(fd, piece + at, size - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return -1;
    at += (size_t)n;
  }
  return 0;
}

static ssize_t put(int fd, void *bytes, size_t size) { return write(fd, bytes, size); }
static ssize_t get(int fd, void *bytes, size_t size) { return read(fd, bytes, size); }

static void at_once(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void answer(int fd) {
  struct {
    char verb;
    uint32_t count;
  } __attribute__((packed)) head;
  if (transfer(fd, sizeof head, get) < 0) return;
  memcpy(&head, piece, sizeof head);
  if (transfer(fd, 1, put) < 0) return;
  const uint32_t count = ntohl(head.count);
  for (uint32_t i = 0; i < count; i++) {
    if (head.verb == 'p' && transfer(fd, kPiece, get) < 0) return;
    if (head.verb == 'g' && transfer(fd, kPiece, put) < 0) return;
    if (head.verb == 'r' && (transfer(fd, kRequest, get) < 0 || transfer(fd, kRequest, put) < 0)) return;
  }
  transfer(fd, 1, put);
}

static void serve(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 8) < 0) die("listen");
  signal(SIGPIPE, SIG_IGN);
  for (;;) {
    int peer = accept(fd, NULL, NULL);
    if (peer < 0) die("accept");
    at_once(peer);
    answer(peer);
    close(peer);
  }
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void measure(const struct sockaddr_in *address, char verb, const char *name, uint32_t count) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  for (int i = 0; connect(fd, (const struct sockaddr *)address, sizeof *address) < 0; i++) {
    if (i == 100) die("connect");
    usleep(100000);
  }
  at_once(fd);
  uint32_t wire = htonl(count);
  piece[0] = verb;
  memcpy(piece + 1, &wire, sizeof wire);
  if (transfer(fd, 5, put) < 0 || transfer(fd, 1, get) < 0) die(name);
  int64_t start = now();
  for (uint32_t i = 0; i < count; i++) {
    if (verb == 'p' && transfer(fd, kPiece, put) < 0) die(name);
    if (verb == 'g' && transfer(fd, kPiece, get) < 0) die(name);
    if (verb == 'r' && (transfer(fd, kRequest, put) < 0 || transfer(fd, kRequest, get) < 0)) die(name);
  }
  if (transfer(fd, 1, get) < 0) die(name);
  printf("figure %s %u %lld\n", name, count, (long long)(now() - start));
  close(fd);
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "serve") == 0) serve(atoi(argv[2]));
  if (argc != 5) return 2;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
  if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
  const uint32_t pieces = (uint32_t)atoi(argv[4]) * 16;
  measure(&address, 'p', "send-64k", pieces);
  measure(&address, 'g', "receive-64k", pieces);
  measure(&address, 'r', "request", kRequests);
  puts("done");
  return 0;
}
