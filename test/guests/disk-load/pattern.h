// What the blocks of the disk hold: every one begins with its own number, so a read of it can be told from any other.
#pragma once

#include <stdbool.h>
#include <stdint.h>

uint64_t random_next(uint64_t *state);
// The first 8 bytes of a block of 4 KiB.
uint64_t block_stamp(uint64_t block);
void block_fill(void *data, uint64_t block, uint64_t seed);
bool block_matches(const void *data, uint64_t block, uint64_t seed);
