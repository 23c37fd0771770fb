// The command line: words separated by spaces, `name=value`.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Steps to the next word that is `name=...`; returns its value, or 0 at the end. `*at` starts as the line.
const char *next_value(const char **at, const char *name);
// A decimal or 0x number, with K, M or G behind it; steps over it. Fails where there is none.
uint64_t parse_number(const char **at);
// The number of the first `name=`, or `otherwise`.
uint64_t number_of(const char *line, const char *name, uint64_t otherwise);
// Steps over `text` where the line goes on with it.
bool skip(const char **at, const char *text);
