#include "machine.h"

#include "console.h"

enum {
  DEBUG_EXIT = 0xf4,
  PM1A_CONTROL = 0x604,
  SLEEP_S5 = 1 << 13 | 5 << 10,
  RESET_CONTROL = 0xcf9,
  FULL_RESET = 6,
};

_Noreturn void machine_end(bool ok) {
  out8(DEBUG_EXIT, ok ? 0 : 1);
  out16(PM1A_CONTROL, SLEEP_S5);
  out8(RESET_CONTROL, FULL_RESET);
  for (;;) pause();
}

_Noreturn void machine_fail(const char *message) {
  print("error: ");
  print(message);
  print("\n");
  machine_end(false);
}

// Called in ring 0 by the entry code.
_Noreturn void guest_exception(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2);
_Noreturn void guest_exception(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2) {
  print("error: exception ");
  print_number(vector);
  print(" code=");
  print_hex(code);
  print(" rip=");
  print_hex(rip);
  print(" cr2=");
  print_hex(cr2);
  print("\n");
  machine_end(false);
}

// The compiler calls these two for copies of its own.
void *memcpy(void *to, const void *from, size_t size) {
  void *result = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return result;
}

void *memset(void *to, int value, size_t size) {
  void *result = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return result;
}
