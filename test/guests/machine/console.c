#include "console.h"

#include "machine.h"

enum {
  COM1 = 0x3f8,
  MODEM_CONTROL = COM1 + 4,
  DTR_AND_RTS = 3,
  LINE_STATUS = COM1 + 5,
  DATA_READY = 0x01,
  TRANSMITTER_EMPTY = 0x20,
};

void console_listen(void) { out8(MODEM_CONTROL, DTR_AND_RTS); }

int console_typed(void) { return in8(LINE_STATUS) & DATA_READY ? in8(COM1) : -1; }

void print(const char *text) {
  while (*text) {
    while (!(in8(LINE_STATUS) & TRANSMITTER_EMPTY)) pause();
    out8(COM1, (uint8_t)*text++);
  }
}

void print_number(uint64_t value) {
  char digits[21];
  char *at = digits + sizeof digits - 1;
  *at = 0;
  do {
    *--at = (char)('0' + value % 10);
    value /= 10;
  } while (value);
  print(at);
}

void print_hex(uint64_t value) {
  char digits[19];
  char *at = digits + sizeof digits - 1;
  *at = 0;
  do {
    *--at = "0123456789abcdef"[value & 15];
    value >>= 4;
  } while (value);
  *--at = 'x';
  *--at = '0';
  print(at);
}

void print_field(const char *name, uint64_t value) {
  print(" ");
  print(name);
  print("=");
  print_number(value);
}
