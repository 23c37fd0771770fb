#include "clock.h"

#include "machine.h"

static uint64_t frequency;

// Intel SDM 2A, CPUID: leaf 0x15 has the crystal's frequency and the ratio to it; leaf 0x40000010 is what
// hypervisors tell, in kHz.
static uint64_t cpuid_khz(void) {
  uint32_t eax, ebx, ecx;
  cpuid(0, &eax, &ebx, &ecx);
  if (eax >= 0x15) {
    cpuid(0x15, &eax, &ebx, &ecx);
    if (eax && ebx && ecx) return (uint64_t)ecx * ebx / eax / 1000;
  }
  cpuid(0x40000000, &eax, &ebx, &ecx);
  if (eax < 0x40000010 || eax > 0x400000ff) return 0;
  cpuid(0x40000010, &eax, &ebx, &ecx);
  return eax;
}

void clock_init(uint64_t khz) {
  frequency = khz ? khz : cpuid_khz();
  if (!frequency) machine_fail("the frequency of the time stamp counter is not known: pass tsc_khz=");
}

uint64_t clock_khz(void) { return frequency; }

uint64_t milliseconds(uint64_t count) { return count * frequency; }

uint64_t nanoseconds(uint64_t ticks) {
  return ticks / frequency * 1000000 + ticks % frequency * 1000000 / frequency;
}
