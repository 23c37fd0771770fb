// Text on COM1, by polling.
#pragma once

#include <stdint.h>

void print(const char *text);
void print_number(uint64_t value);
void print_hex(uint64_t value);
// Says that input is taken.
void console_listen(void);
// The next character that was typed, -1 where there is none.
int console_typed(void);

// ` name=value`
void print_field(const char *name, uint64_t value);
