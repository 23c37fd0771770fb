#include "cmdline.h"

#include "machine.h"

bool skip(const char **at, const char *text) {
  const char *line = *at;
  while (*text)
    if (*line++ != *text++) return false;
  *at = line;
  return true;
}

const char *next_value(const char **at, const char *name) {
  for (;;) {
    while (**at == ' ') ++*at;
    if (!**at) return 0;
    const char *value = *at;
    while (**at && **at != ' ') ++*at;
    if (skip(&value, name) && *value == '=') return value + 1;
  }
}

static int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 16;
}

uint64_t parse_number(const char **at) {
  int base = skip(at, "0x") ? 16 : 10;
  if (digit(**at) >= base) machine_fail("a number is missing on the command line");
  uint64_t value = 0;
  for (; digit(**at) < base; ++*at) value = value * (uint64_t)base + (uint64_t)digit(**at);
  if (skip(at, "K")) return value << 10;
  if (skip(at, "M")) return value << 20;
  if (skip(at, "G")) return value << 30;
  return value;
}

uint64_t number_of(const char *line, const char *name, uint64_t otherwise) {
  const char *value = next_value(&line, name);
  return value ? parse_number(&value) : otherwise;
}
