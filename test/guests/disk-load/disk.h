// virtio-blk (VIRTIO 1.2, 5.2) by numbered requests, any of them in flight at once.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "virtio.h"

enum { SECTOR = 512, BLOCK = 4096, REQUEST_LIMIT = 256 };

typedef enum { DISK_READ = 0, DISK_WRITE = 1, DISK_FLUSH = 4 } operation;

typedef struct {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
} request_header;

typedef struct {
  request_header header;
  volatile uint8_t status;
  uint8_t *data;
  // indirect table
  descriptor *table;
} request;

typedef struct {
  device device;
  queue queue;
  uint64_t features;
  uint64_t capacity;
  bool indirect;
  // largest data descriptor in bytes
  uint32_t segment;
  // descriptors in the ring that each request has for itself
  uint16_t stride;
  uint16_t count;
  request requests[REQUEST_LIMIT];
} disk;

typedef struct {
  // F_INDIRECT_DESC and F_EVENT_IDX, as far as they are wanted
  uint64_t features;
  uint16_t queue_size;
  uint32_t segment;
  // requests at once, and the most bytes of each, in multiples of BLOCK
  uint16_t count;
  uint32_t buffer;
  // RAM for buffers
  uintptr_t memory;
  uintptr_t memory_end;
} disk_options;

// Starts the device that was found, from its reset on. Fails where the requests have no room in queue or memory.
void disk_start(disk *, const disk_options *);
// Puts a request in line; queue_publish sends it. `offset` and `length` in bytes, whole sectors.
void disk_queue(disk *, uint16_t index, operation, uint64_t offset, uint32_t length);
// Waits for the next request that completes and returns its index. Fails on an error status, on a wrong length, and
// after 20 seconds.
uint16_t disk_wait(disk *);
// Takes a completed request if there is one.
bool disk_poll(disk *, uint16_t *index);
