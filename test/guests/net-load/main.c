// Loads a virtio network card and prints how it did, a line for each workload on COM1. Its peer does what frames of an
// EtherType of their own tell it: bench/network/peer.c. Words of the command line:
//   virtio_mmio.device=SIZE@ADDRESS:IRQ  where to look, as often as wanted; without any the card is sought on PCI
//   run=KIND:SIZE:MS   a workload, as often as wanted, in order; KIND is tx, rx or rr (a request and its answer),
//                      SIZE in bytes of a frame
//   warmup=MS          default 50
//   queue=SIZE         descriptors, a power of two; default 256
//   buffer=BYTES       of a receive buffer; default 4K
//   tsc_khz=N
#include "clock.h"
#include "cmdline.h"
#include "console.h"
#include "histogram.h"
#include "machine.h"
#include "start_info.h"
#include "virtio.h"

#define F_MAC FEATURE(5)
#define F_MRG_RXBUF FEATURE(15)

enum { RX = 0, TX = 1, HEADER = 12, LEAST = 60, LARGEST = 65536, WAIT_LIMIT_MS = 20000, TIME_CHECK = 1024, REPEAT_MS = 20, BATCH = 64 };
// EtherTypes: a command (what to do, the size, and which one it is), and what is counted or answered
enum { TYPE_COMMAND = 0x88b5, TYPE_DATA = 0x88b6 };
enum { COMMAND_SINK = 0, COMMAND_SOURCE = 1, COMMAND_ECHO = 2, COMMAND_STOP = 3 };

typedef struct {
  device device;
  queue queues[2];
  uint8_t *receive, *send;
  uint32_t buffer;
  // frames that the device has, and has given back
  uint64_t sent, done;
  uint32_t commands;
} card;

static uintptr_t free_memory, memory_end;

static void *allocate(uint64_t size) {
  uintptr_t at = (free_memory + 4095) & ~4095ull;
  if (at + size > memory_end) machine_fail("not enough memory for the buffers");
  free_memory = at + size;
  return (void *)at;
}

static uint8_t *send_buffer(card *c, uint16_t index) { return c->send + (uint64_t)index * (LARGEST + 4096); }

static void post(card *c, uint16_t index) {
  queue *q = &c->queues[RX];
  q->descriptors[index] =
      (descriptor){(uintptr_t)c->receive + (uint64_t)index * c->buffer, c->buffer, DESC_WRITE, 0};
  queue_add(q, index);
}

static void start(card *c, const char *line) {
  uint16_t size = (uint16_t)number_of(line, "queue", 256);
  uint64_t features = virtio_start(&c->device, c->queues, 2, F_EVENT_IDX | F_MAC | F_MRG_RXBUF, size);
  if (!(features & F_MRG_RXBUF)) machine_fail("the card does not merge receive buffers");
  c->buffer = (uint32_t)number_of(line, "buffer", 4096);
  if (!c->receive) {
    c->receive = allocate((uint64_t)QUEUE_LIMIT / 2 * c->buffer);
    c->send = allocate((uint64_t)c->queues[TX].size * (LARGEST + 4096));
  }
  c->sent = c->done = 0;
  if (c->queues[RX].size > QUEUE_LIMIT / 2) machine_fail("queue= is at most 512");
  for (uint16_t i = 0; i < c->queues[RX].size; i++) post(c, i);
  queue_publish(&c->queues[RX]);
}

static void fill(uint8_t *packet, uint32_t size, unsigned type) {
  memset(packet, 0, HEADER + 14);
  memset(packet + HEADER, 0xff, 6);
  packet[HEADER + 6] = 0x52;
  packet[HEADER + 12] = (uint8_t)(type >> 8);
  packet[HEADER + 13] = (uint8_t)type;
  *(volatile uint32_t *)(packet + HEADER + 16) = size;
}

static void reap(card *c) {
  uint16_t head;
  uint32_t length;
  while (queue_take(&c->queues[TX], &head, &length)) c->done++;
}

// Puts a frame in line, in the buffer of its place in the ring; false where the ring is full.
static bool enqueue(card *c, uint32_t size) {
  queue *q = &c->queues[TX];
  if (c->sent - c->done == q->size) return false;
  uint16_t index = (uint16_t)(c->sent++ % q->size);
  q->descriptors[index] = (descriptor){(uintptr_t)send_buffer(c, index), HEADER + size, 0, 0};
  queue_add(q, index);
  return true;
}

static void wait_sent(card *c) {
  uint64_t end = rdtsc() + milliseconds(WAIT_LIMIT_MS);
  while (c->done < c->sent) {
    reap(c);
    if (rdtsc() > end) machine_fail("a frame was not sent within 20 s");
  }
}

typedef struct {
  unsigned type;
  // of a command: which one
  uint32_t command;
} arrival;

// Takes a frame that has come, all of its buffers; returns its length, 0 where there is none.
static uint32_t take(card *c, arrival *got) {
  queue *q = &c->queues[RX];
  uint16_t head;
  uint32_t length;
  if (!queue_take(q, &head, &length)) return 0;
  const uint8_t *packet = c->receive + (uint64_t)head * c->buffer;
  uint16_t buffers = *(const volatile uint16_t *)(packet + 10);
  got->type = (unsigned)(packet[HEADER + 12] << 8 | packet[HEADER + 13]);
  got->command = *(const volatile uint32_t *)(packet + HEADER + 20);
  uint32_t sum = length;
  post(c, head);
  for (uint16_t i = 1; i < buffers; i++) {
    // Those of a frame are used together.
    if (!queue_take(q, &head, &length)) machine_fail("a frame lacks a buffer");
    sum += length;
    post(c, head);
  }
  return sum - HEADER;
}

static void send_command(card *c, uint8_t what, uint32_t size) {
  uint16_t index = (uint16_t)(c->sent % c->queues[TX].size);
  uint8_t *packet = send_buffer(c, index);
  fill(packet, size, TYPE_COMMAND);
  packet[HEADER + 14] = what;
  *(volatile uint32_t *)(packet + HEADER + 20) = c->commands;
  enqueue(c, LEAST);
  queue_publish(&c->queues[TX]);
  wait_sent(c);
}

// Sends a command until the peer sends it back, as a tap that has no room loses frames, and drops all that comes before
// that. Leaves all buffers with frames of data.
static void command(card *c, uint8_t what, uint32_t size) {
  wait_sent(c);
  c->commands++;
  send_command(c, what, size);
  arrival got = {0};
  uint64_t last = rdtsc(), end = last + milliseconds(WAIT_LIMIT_MS);
  do {
    uint64_t now = rdtsc();
    if (now > end) machine_fail("the peer does not answer");
    if (now > last + milliseconds(REPEAT_MS)) {
      send_command(c, what, size);
      last = now;
    }
    for (unsigned n = 0; n < BATCH && take(c, &got); n++) {
      if (got.type == TYPE_COMMAND && got.command == c->commands) break;
      got.type = 0;
    }
    queue_publish(&c->queues[RX]);
  } while (got.type != TYPE_COMMAND);
  for (uint16_t i = 0; i < c->queues[TX].size; i++) fill(send_buffer(c, i), size, TYPE_DATA);
}

typedef struct {
  uint64_t count, begin, last, end;
} measure;

static measure begin_measure(const char *line, uint64_t duration) {
  measure m = {.begin = rdtsc() + milliseconds(number_of(line, "warmup", 50))};
  m.last = m.begin;
  m.end = m.begin + milliseconds(duration);
  return m;
}

static void run_tx(card *c, measure *m, uint32_t size) {
  command(c, COMMAND_SINK, size);
  for (uint64_t now = rdtsc(); now < m->end; now = rdtsc()) {
    uint64_t before = c->done;
    reap(c);
    while (enqueue(c, size)) continue;
    queue_publish(&c->queues[TX]);
    if (now < m->begin) continue;
    m->count += c->done - before;
    m->last = now;
  }
  wait_sent(c);
}

static void run_rx(card *c, measure *m, uint32_t size) {
  command(c, COMMAND_SOURCE, size);
  for (uint64_t now = rdtsc(); now < m->end; now = rdtsc()) {
    arrival got;
    uint32_t length;
    for (unsigned n = 0; n < BATCH && (length = take(c, &got)); n++) {
      if (got.type != TYPE_DATA) continue;
      if (length != size) machine_fail("a frame of another length has come");
      if (now >= m->begin) m->count++;
    }
    queue_publish(&c->queues[RX]);
    m->last = now;
  }
  command(c, COMMAND_STOP, LEAST);
}

static void run_rr(card *c, measure *m, uint32_t size) {
  command(c, COMMAND_ECHO, size);
  histogram_clear();
  for (uint64_t now = rdtsc(); now < m->end;) {
    enqueue(c, size);
    queue_publish(&c->queues[TX]);
    arrival got = {0};
    for (unsigned n = 1; take(c, &got) != size || got.type != TYPE_DATA; n++) {
      pause();
      if (n % TIME_CHECK == 0 && rdtsc() > now + milliseconds(WAIT_LIMIT_MS))
        machine_fail("no answer within 20 s");
    }
    queue_publish(&c->queues[RX]);
    reap(c);
    uint64_t end = rdtsc();
    if (now >= m->begin) {
      histogram_add(end - now);
      m->count++;
      m->last = end;
    } else {
      m->begin = m->begin < end ? end : m->begin;
    }
    now = end;
  }
}

static void run(card *c, const char *line, const char *value) {
  const char *kind = skip(&value, "tx") ? "tx" : skip(&value, "rx") ? "rx" : skip(&value, "rr") ? "rr" : 0;
  if (!kind || !skip(&value, ":")) machine_fail("run= is tx:, rx: or rr: with SIZE:MS");
  uint32_t size = (uint32_t)parse_number(&value);
  if (size < LEAST || size > LARGEST) machine_fail("a frame is 60 to 65536 bytes");
  if (!skip(&value, ":")) machine_fail("run= lacks the milliseconds");
  uint64_t duration = parse_number(&value);
  start(c, line);
  print("start op=");
  print(kind);
  print("\n");
  uint64_t took = rdtsc();
  measure m = begin_measure(line, duration);
  histogram_clear();
  if (kind[0] == 't')
    run_tx(c, &m, size);
  else if (kind[1] == 'x')
    run_rx(c, &m, size);
  else
    run_rr(c, &m, size);
  took = rdtsc() - took;
  print("result op=");
  print(kind);
  print_field("size", size);
  print_field("count", m.count);
  print_field("ns", nanoseconds(m.last - m.begin));
  print_field("p50", nanoseconds(histogram_percentile(500)));
  print_field("p99", nanoseconds(histogram_percentile(990)));
  print_field("notifications", c->queues[RX].notifications + c->queues[TX].notifications);
  print_field("took", nanoseconds(took));
  print("\n");
}

_Noreturn void guest_main(const start_info *info);
_Noreturn void guest_main(const start_info *info) {
  static card c;
  const char *line = start_info_cmdline(info);
  clock_init(number_of(line, "tsc_khz", 0));
  free_memory = (uintptr_t)image_end;
  memory_end = start_info_memory_end(info);
  const char *at = line;
  bool found = next_value(&at, "virtio_mmio.device") ? mmio_find(&c.device, line, DEVICE_NET, 0)
                                                      : pci_find(&c.device, DEVICE_NET, 0);
  if (!found) machine_fail("no virtio network card was found");
  at = line;
  const char *value;
  while ((value = next_value(&at, "run"))) run(&c, line, value);
  virtio_reset(&c.device);
  print("end\n");
  machine_end(true);
}
