// Times in 32 steps for each power of two, so that a percentile is right to 3 %.
#pragma once

#include <stdint.h>

void histogram_clear(void);
void histogram_add(uint64_t ticks);
// The time that `per_mille` of 1000 were not above, 0 where there are none.
uint64_t histogram_percentile(unsigned per_mille);
