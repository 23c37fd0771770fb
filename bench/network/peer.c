// The other end of a network card in the benchmark, the same for every contender: `peer SOCKET` listens there for one
// connection after the other, with each frame after its length in 4 bytes, big-endian; `peer tap NAME` is at the host's
// end of that tap. Frames of EtherType 0x88b5 tell it what to do with those of 0x88b6 (test/guests/net-load/main.c):
// take them, send some as fast as they are taken, send each back, or send no more. It sends them back when it has read
// them.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
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
enum { BATCH = 64, FRAME_ROOM = 2048 };
enum { SINK, SOURCE, ECHO, STOP };

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
  // Behind what is left of a source, and before a new one.
  put(frame, length);
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

// As many as there are, up to a batch; frames that this host itself sends are shown here too.
static void receive_packets(int fd) {
  static uint8_t frames[BATCH][FRAME_ROOM];
  struct sockaddr_ll from[BATCH];
  struct iovec pieces[BATCH];
  struct mmsghdr messages[BATCH] = {0};
  for (int i = 0; i < BATCH; i++) {
    pieces[i] = (struct iovec){frames[i], FRAME_ROOM};
    messages[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &pieces[i], .msg_iovlen = 1};
  }
  int count = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
  // The tap is down while no VMM has it.
  if (count < 0 && errno != EAGAIN && errno != ENETDOWN) fail("recvmmsg");
  for (int i = 0; i < count; i++) {
    if (from[i].sll_pkttype != PACKET_OUTGOING) take(frames[i], messages[i].msg_len);
  }
}

static void transmit_packets(int fd) {
  if (waiting_sent == waiting) {
    waiting = waiting_sent = 0;
    if (mode != SOURCE) return;
    memcpy(out, source, source_size);
    waiting = source_size;
  }
  struct iovec pieces[BATCH];
  struct mmsghdr messages[BATCH] = {0};
  unsigned count = 0;
  for (size_t at = waiting_sent; at < waiting && count < BATCH; count++) {
    uint32_t length;
    memcpy(&length, out + at, LENGTH);
    pieces[count] = (struct iovec){out + at + LENGTH, ntohl(length)};
    messages[count].msg_hdr = (struct msghdr){.msg_iov = &pieces[count], .msg_iovlen = 1};
    at += LENGTH + ntohl(length);
  }
  int done = sendmmsg(fd, messages, count, MSG_DONTWAIT);
  if (done < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENETDOWN) fail("sendmmsg");
  for (int i = 0; i < done; i++) waiting_sent += LENGTH + pieces[i].iov_len;
  if (waiting_sent == waiting) waiting = waiting_sent = 0;
}

static void serve_tap(const char *name) {
  int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name)};
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail(name);
  int size = 4 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  puts("ready");
  fflush(stdout);
  for (;;) {
    bool sends = waiting > waiting_sent || mode == SOURCE;
    struct pollfd ready = {fd, (short)(POLLIN | (sends ? POLLOUT : 0)), 0};
    if (poll(&ready, 1, -1) < 0 && errno != EINTR) fail("poll");
    receive_packets(fd);
    transmit_packets(fd);
  }
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "tap") == 0) serve_tap(argv[2]);
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
