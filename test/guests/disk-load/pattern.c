#include "pattern.h"

#include "disk.h"

// SplitMix64
uint64_t random_next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

uint64_t block_stamp(uint64_t block) { return block + 1; }

void block_fill(void *data, uint64_t block, uint64_t seed) {
  uint64_t *words = data;
  uint64_t state = seed ^ block << 20;
  words[0] = block_stamp(block);
  for (unsigned i = 1; i < BLOCK / 8; i++) words[i] = random_next(&state);
}

bool block_matches(const void *data, uint64_t block, uint64_t seed) {
  const uint64_t *words = data;
  uint64_t state = seed ^ block << 20;
  if (words[0] != block_stamp(block)) return false;
  for (unsigned i = 1; i < BLOCK / 8; i++)
    if (words[i] != random_next(&state)) return false;
  return true;
}
