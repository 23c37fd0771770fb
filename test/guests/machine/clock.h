// Time by the time stamp counter.
#pragma once

#include <stdint.h>

// Sets the counter's frequency: `khz` where it is not 0, else what CPUID says. Fails where neither is known.
void clock_init(uint64_t khz);
uint64_t clock_khz(void);
uint64_t milliseconds(uint64_t count);
uint64_t nanoseconds(uint64_t ticks);
