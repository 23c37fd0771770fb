// What the program does to the disk.
#pragma once

#include "disk.h"

typedef struct {
  operation operation;
  bool random;
  // bytes a request
  uint32_t size;
  uint16_t depth;
  // milliseconds that are measured, and before them
  uint64_t duration;
  uint64_t warm_up;
  // the part of the disk used, from its start
  uint64_t span;
  // every block of the span begins with its stamp: reads are checked
  bool stamped;
  uint64_t seed;
} workload;

// Keeps `depth` requests in flight for the time given, and prints what came of it as one line.
void workload_run(disk *, const workload *);
// Writes `bytes` from the start of the disk on, in no order, flushes, reads all of it back in another, and compares.
void workload_verify(disk *, uint64_t bytes, uint16_t depth, uint64_t seed);
