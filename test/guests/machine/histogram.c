#include "histogram.h"

#include "machine.h"

enum { STEP_BITS = 5, STEPS = 1 << STEP_BITS, BUCKETS = (64 - STEP_BITS + 1) * STEPS };

static uint32_t counts[BUCKETS];
static uint64_t total;

void histogram_clear(void) {
  memset(counts, 0, sizeof counts);
  total = 0;
}

void histogram_add(uint64_t ticks) {
  unsigned bucket = (unsigned)ticks;
  if (ticks >= STEPS) {
    unsigned shift = 63 - (unsigned)__builtin_clzll(ticks) - STEP_BITS;
    bucket = (shift << STEP_BITS) + (unsigned)(ticks >> shift);
  }
  counts[bucket]++;
  total++;
}

uint64_t histogram_percentile(unsigned per_mille) {
  uint64_t left = (total * per_mille + 999) / 1000;
  for (unsigned bucket = 0; bucket < BUCKETS && left > 0; bucket++) {
    if (counts[bucket] < left) {
      left -= counts[bucket];
      continue;
    }
    if (bucket < STEPS) return bucket;
    unsigned shift = (bucket >> STEP_BITS) - 1;
    return (uint64_t)(bucket - (shift << STEP_BITS)) << shift;
  }
  return 0;
}
