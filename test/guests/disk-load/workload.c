#include "workload.h"

#include "clock.h"
#include "console.h"
#include "histogram.h"
#include "machine.h"
#include "pattern.h"

typedef struct {
  const workload *load;
  uint64_t units;
  uint64_t position;
  uint64_t random;
  uint64_t started[REQUEST_LIMIT];
  uint64_t offset[REQUEST_LIMIT];
} progress;

static const char *name_of(const workload *load) {
  if (load->operation == DISK_READ) return load->random ? "randread" : "read";
  return load->random ? "randwrite" : "write";
}

// Of a large read one block in 16 is looked at, other ones each time: what fio reads it does not look at either.
enum { CHECK_STEP = 16 * BLOCK };

static uint32_t first_checked(const progress *p, uint16_t index) {
  if (p->load->size < CHECK_STEP) return 0;
  return (uint32_t)(p->offset[index] / p->load->size % 16) * BLOCK;
}

static void send(disk *d, progress *p, uint16_t index) {
  const workload *load = p->load;
  uint64_t unit;
  if (load->random) {
    // the high half of a product: no division
    unit = (uint64_t)((unsigned __int128)random_next(&p->random) * p->units >> 64);
  } else {
    unit = p->position++;
    if (p->position == p->units) p->position = 0;
  }
  uint64_t offset = unit * load->size;
  uint8_t *data = d->requests[index].data;
  p->offset[index] = offset;
  if (load->operation == DISK_WRITE)
    for (uint32_t at = 0; at < load->size; at += BLOCK)
      *(uint64_t *)(data + at) = block_stamp((offset + at) / BLOCK);
  else
    for (uint32_t at = first_checked(p, index); at < load->size; at += CHECK_STEP) *(uint64_t *)(data + at) = 0;
  p->started[index] = rdtsc();
  disk_queue(d, index, load->operation, offset, load->size);
}

static void check(const disk *d, const progress *p, uint16_t index) {
  const workload *load = p->load;
  if (load->operation != DISK_READ || !load->stamped) return;
  for (uint32_t at = first_checked(p, index); at < load->size; at += CHECK_STEP) {
    uint64_t block = (p->offset[index] + at) / BLOCK;
    if (*(const uint64_t *)(d->requests[index].data + at) == block_stamp(block)) continue;
    print("error: wrong data");
    print_field("block", block);
    print("\n");
    machine_end(false);
  }
}

void workload_run(disk *d, const workload *load) {
  static progress p;
  p.load = load;
  p.units = load->span / load->size;
  p.position = 0;
  p.random = load->seed;
  print("start op=");
  print(name_of(load));
  print_field("size", load->size);
  print_field("depth", load->depth);
  print("\n");

  histogram_clear();
  uint64_t now = rdtsc();
  uint64_t took = now;
  uint64_t begin = now + milliseconds(load->warm_up);
  uint64_t end = begin + milliseconds(load->duration);
  uint64_t count = 0, first = 0, last = 0, notified = 0;
  for (uint16_t i = 0; i < load->depth; i++) send(d, &p, i);
  queue_publish(&d->queue);
  uint16_t in_flight = load->depth;
  while (in_flight > 0) {
    uint16_t index = disk_wait(d);
    // Whatever has completed goes out again in one batch.
    do {
      now = rdtsc();
      check(d, &p, index);
      // However slow the disk is, some are counted.
      bool over = now >= end && count >= load->depth;
      if (first) {
        if (!over) {
          histogram_add(now - p.started[index]);
          count++;
          last = now;
        }
      } else if (now >= begin) {
        // Time runs from one completion to another, so that none is counted in part.
        first = last = now;
        notified = d->queue.notifications;
      }
      if (over)
        in_flight--;
      else
        send(d, &p, index);
    } while (disk_poll(d, &index));
    queue_publish(&d->queue);
  }
  notified = d->queue.notifications - notified;
  took = rdtsc() - took;

  print("result op=");
  print(name_of(load));
  print_field("size", load->size);
  print_field("depth", load->depth);
  print_field("ops", count);
  print_field("ns", nanoseconds(last - first));
  print_field("p50", nanoseconds(histogram_percentile(500)));
  print_field("p99", nanoseconds(histogram_percentile(990)));
  print_field("max", nanoseconds(histogram_percentile(1000)));
  print_field("notifications", notified);
  print_field("took", nanoseconds(took));
  print("\n");
}

static uint64_t step_coprime_to(uint64_t count, uint64_t step) {
  for (;; step++) {
    uint64_t a = count, b = step;
    while (b) {
      uint64_t rest = a % b;
      a = b;
      b = rest;
    }
    if (a == 1) return step;
  }
}

// Does one operation to every block, in steps of `step` around the disk.
static void every_block(disk *d, operation type, uint64_t blocks, uint64_t step, uint16_t depth, uint64_t seed) {
  static uint64_t block_of[REQUEST_LIMIT];
  uint64_t next = 0, sent = 0;
  uint16_t in_flight = 0, index = 0;
  step = step_coprime_to(blocks, step) % blocks;
  while (sent < blocks || in_flight > 0) {
    bool fresh = sent < blocks && in_flight < depth && sent < depth;
    if (fresh) {
      index = (uint16_t)sent;
    } else {
      queue_publish(&d->queue);
      index = disk_wait(d);
      in_flight--;
      if (type == DISK_READ && !block_matches(d->requests[index].data, block_of[index], seed)) {
        print("error: verification failed");
        print_field("block", block_of[index]);
        print("\n");
        machine_end(false);
      }
      if (sent == blocks) continue;
    }
    if (type == DISK_WRITE)
      block_fill(d->requests[index].data, next, seed);
    else
      memset(d->requests[index].data, 0, BLOCK);
    block_of[index] = next;
    disk_queue(d, index, type, next * BLOCK, BLOCK);
    next = (next + step) % blocks;
    sent++;
    in_flight++;
  }
}

void workload_verify(disk *d, uint64_t bytes, uint16_t depth, uint64_t seed) {
  uint64_t blocks = bytes / BLOCK;
  every_block(d, DISK_WRITE, blocks, 7919, depth, seed);
  disk_queue(d, 0, DISK_FLUSH, 0, 0);
  queue_publish(&d->queue);
  disk_wait(d);
  every_block(d, DISK_READ, blocks, 104729, depth, seed);
  print("verified");
  print_field("bytes", blocks * BLOCK);
  print("\n");
}
