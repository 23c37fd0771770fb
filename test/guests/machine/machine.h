// The processor and the board as the program uses them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void out8(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out16(uint16_t port, uint16_t value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out32(uint16_t port, uint32_t value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t in8(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline uint32_t in32(uint16_t port) {
  uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline uint64_t rdtsc(void) {
  uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return (uint64_t)high << 32 | low;
}

static inline void cpuid(uint32_t leaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx) {
  uint32_t edx;
  asm volatile("cpuid" : "=a"(*eax), "=b"(*ebx), "=c"(*ecx), "=d"(edx) : "a"(leaf), "c"(0));
}

static inline void pause(void) { asm volatile("pause"); }

// x86 keeps loads and stores in order each among themselves; the compiler has to as well.
static inline void ordered(void) { asm volatile("" : : : "memory"); }
// A store before a load of something else needs the fence.
static inline void fence(void) { asm volatile("lock orl $0, (%%rsp)" : : : "memory", "cc"); }

static inline uint32_t mmio_read32(uintptr_t at) {
  uint32_t value;
  asm volatile("movl (%1), %0" : "=a"(value) : "r"(at) : "memory");
  return value;
}
static inline uint16_t mmio_read16(uintptr_t at) {
  uint16_t value;
  asm volatile("movw (%1), %0" : "=a"(value) : "r"(at) : "memory");
  return value;
}
static inline uint8_t mmio_read8(uintptr_t at) {
  uint8_t value;
  asm volatile("movb (%1), %0" : "=a"(value) : "r"(at) : "memory");
  return value;
}
static inline void mmio_write32(uintptr_t at, uint32_t value) {
  asm volatile("movl %0, (%1)" : : "a"(value), "r"(at) : "memory");
}
static inline void mmio_write16(uintptr_t at, uint16_t value) {
  asm volatile("movw %0, (%1)" : : "a"(value), "r"(at) : "memory");
}
static inline void mmio_write8(uintptr_t at, uint8_t value) {
  asm volatile("movb %0, (%1)" : : "a"(value), "r"(at) : "memory");
}

// Ends the machine: by QEMU's isa-debug-exit, where there is none by ACPI S5 of tsvm, else by a reset.
_Noreturn void machine_end(bool ok);
// Prints the message and ends the machine.
_Noreturn void machine_fail(const char *message);

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
