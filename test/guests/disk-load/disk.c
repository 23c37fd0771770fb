#include "disk.h"

#include "clock.h"
#include "console.h"
#include "machine.h"

#define F_SEG_MAX FEATURE(2)
// offsets in the configuration (VIRTIO 1.2, 5.2.4)
enum { CONFIG_CAPACITY = 0, CONFIG_SEG_MAX = 12 };
enum { WAIT_LIMIT_MS = 20000, TIME_CHECK = 1024 };

static uintptr_t allocate(const disk_options *options, uintptr_t *at, uint64_t size, uint64_t alignment) {
  uintptr_t address = (*at + alignment - 1) & ~(alignment - 1);
  if (address + size > options->memory_end) machine_fail("not enough memory for the buffers");
  *at = address + size;
  return address;
}

void disk_start(disk *d, const disk_options *options) {
  d->features = virtio_start(&d->device, &d->queue, 1, options->features | F_SEG_MAX, options->queue_size);
  uintptr_t capacity = d->device.config + CONFIG_CAPACITY;
  d->capacity = (mmio_read32(capacity) | (uint64_t)mmio_read32(capacity + 4) << 32) * SECTOR;
  d->indirect = d->features & F_INDIRECT_DESC;
  d->segment = options->segment;
  uint32_t descriptors = 2 + (options->buffer + d->segment - 1) / d->segment;
  if (d->features & F_SEG_MAX && descriptors - 2 > mmio_read32(d->device.config + CONFIG_SEG_MAX))
    machine_fail("a request has more segments than the device takes");
  d->stride = d->indirect ? 1 : (uint16_t)descriptors;
  d->count = options->count;
  if (options->count > REQUEST_LIMIT || options->count * (uint32_t)d->stride > d->queue.size)
    machine_fail("the queue has no room for so many requests");
  uintptr_t at = options->memory;
  for (unsigned i = 0; i < options->count; i++) {
    d->requests[i].table = (descriptor *)allocate(options, &at, descriptors * sizeof(descriptor), 16);
    d->requests[i].data = (uint8_t *)allocate(options, &at, options->buffer, BLOCK);
  }
}

void disk_queue(disk *d, uint16_t index, operation type, uint64_t offset, uint32_t length) {
  request *r = &d->requests[index];
  uint16_t head = (uint16_t)(index * d->stride);
  descriptor *table = d->indirect ? r->table : d->queue.descriptors + head;
  uint16_t first = d->indirect ? 0 : head;
  uint16_t n = 0;
  r->header.type = type;
  r->header.sector = offset / SECTOR;
  r->status = 0xff;
  table[n++] = (descriptor){(uintptr_t)&r->header, sizeof r->header, DESC_NEXT, first + 1};
  for (uint32_t done = 0; done < length; n++) {
    uint32_t size = length - done < d->segment ? length - done : d->segment;
    uint16_t flags = DESC_NEXT | (type == DISK_READ ? DESC_WRITE : 0);
    table[n] = (descriptor){(uintptr_t)r->data + done, size, flags, (uint16_t)(first + n + 1)};
    done += size;
  }
  table[n++] = (descriptor){(uintptr_t)&r->status, 1, DESC_WRITE, 0};
  if (d->indirect)
    d->queue.descriptors[head] = (descriptor){(uintptr_t)table, n * (uint32_t)sizeof *table, DESC_INDIRECT, 0};
  queue_add(&d->queue, head);
}

bool disk_poll(disk *d, uint16_t *index) {
  uint16_t head;
  uint32_t length;
  if (!queue_take(&d->queue, &head, &length)) return false;
  *index = head / d->stride;
  const request *r = &d->requests[*index];
  if (r->status != 0) {
    print("error: status");
    print_field("of", r->header.type);
    print_field("sector", r->header.sector);
    print_field("is", r->status);
    print("\n");
    machine_end(false);
  }
  return true;
}

uint16_t disk_wait(disk *d) {
  uint16_t index;
  if (disk_poll(d, &index)) return index;
  uint64_t end = rdtsc() + milliseconds(WAIT_LIMIT_MS);
  for (unsigned n = 1;; n++) {
    if (disk_poll(d, &index)) return index;
    pause();
    if (n % TIME_CHECK == 0 && rdtsc() > end) {
      print("error: no request completed for 20 s");
      print_field("available", d->queue.next);
      print_field("used", d->queue.seen);
      print_field("status", d->device.via->status(&d->device));
      print("\n");
      machine_end(false);
    }
  }
}
