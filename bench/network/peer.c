// The other end of a network card in the benchmark, the same for every contender: `peer SOCKET` listens there for one
// connection after the other, with each frame after its length in 4 bytes, big-endian. Frames of EtherType 0x88b5 tell
// it what to do with those of 0x88b6 (test/guests/net-load/main.c): take them, send some as fast as they are taken, or
// send each back.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LENGTH = 4, LARGEST = 1 << 17, ROOM = 1 << 20, SOURCE_BYTES = 256 * 1024 };
enum { SINK, SOURCE, ECHO, STOPPED };

static uint8_t in[ROOM], out[ROOM + LARGEST];
static size_t have, waiting, waiting_sent;
static uint8_t source[SOURCE_BYTES + LARGEST];
static size_t source_size;
static int mode;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void put(const uint8_t *frame, uint32_t length) {
  if (waiting + LENGTH + length > sizeof out) {
    // The other side sends without taking its answers: those are lost.
    return;
  }
  uint32_t order = htonl(length);
  memcpy(out + waiting, &order, LENGTH);
  memcpy(out + waiting + LENGTH, frame, length);
  waiting += LENGTH + length;
}

static void make_source(uint32_t length) {
  uint32_t order = htonl(length);
  for (source_size = 0; source_size == 0 || source_size + LENGTH + length <= SOURCE_BYTES;) {
    uint8_t *frame = source + source_size + LENGTH;
    memcpy(frame - LENGTH, &order, LENGTH);
    memset(frame, 0, length);
    memset(frame, 0xff, 6);
    frame[6] = 0x52;
    frame[12] = 0x88;
    frame[13] = 0xb6;
    source_size += LENGTH + length;
  }
}

static void take(const uint8_t *frame, uint32_t length) {
  if (length < 20 || frame[12] != 0x88) return;
  if (frame[13] == 0xb6) {
    if (mode == ECHO) put(frame, length);
    return;
  }
  if (frame[13] != 0xb5) return;
  uint32_t size;
  memcpy(&size, frame + 16, sizeof size);
  mode = frame[14];
  if (mode == SOURCE && size >= 20 && size < LARGEST) make_source(size);
  // In its place behind the last frame of the source.
  if (mode == STOPPED) put(frame, length);
}

// Returns whether it has gone.
static bool receive(int fd) {
  ssize_t got = recv(fd, in + have, sizeof in - have, MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN)) return true;
  if (got < 0) return false;
  have += (size_t)got;
  size_t at = 0;
  while (have - at >= LENGTH) {
    uint32_t length;
    memcpy(&length, in + at, LENGTH);
    length = ntohl(length);
    if (length > LARGEST) return true;
    if (have - at - LENGTH < length) break;
    take(in + at + LENGTH, length);
    at += LENGTH + length;
  }
  memmove(in, in + at, have - at);
  have -= at;
  return false;
}

static bool transmit(int fd) {
  if (waiting_sent == waiting) {
    waiting = waiting_sent = 0;
    if (mode != SOURCE) return false;
    memcpy(out, source, source_size);
    waiting = source_size;
  }
  ssize_t got = send(fd, out + waiting_sent, waiting - waiting_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (got < 0) return errno != EAGAIN;
  waiting_sent += (size_t)got;
  if (waiting_sent == waiting) waiting = waiting_sent = 0;
  return false;
}

static void serve(int fd) {
  have = waiting = waiting_sent = 0;
  mode = SINK;
  for (;;) {
    bool sends = waiting > waiting_sent || mode == SOURCE;
    struct pollfd ready = {fd, (short)(POLLIN | (sends ? POLLOUT : 0)), 0};
    if (poll(&ready, 1, -1) < 0 && errno != EINTR) fail("poll");
    if (ready.revents & (POLLIN | POLLHUP | POLLERR) && receive(fd)) return;
    if ((waiting > waiting_sent || mode == SOURCE) && transmit(fd)) return;
  }
}

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0)
    fail("listen");
  puts("ready");
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) fail("accept");
    int size = 1 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    serve(fd);
    close(fd);
  }
}
