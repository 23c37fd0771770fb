// What a boot by PVH tells the program.
#pragma once

#include <stdint.h>

// struct hvm_start_info and its memory map (Xen, include/public/arch-x86/hvm/start_info.h)
typedef struct {
  uint32_t magic, version, flags, module_count;
  uint64_t modules, cmdline, rsdp, memory_map;
  uint32_t memory_map_entries, reserved;
} start_info;

typedef struct {
  uint64_t address, size;
  uint32_t type, reserved;
} memory_map_entry;

extern uint8_t image_end[];

// Fails where it is none.
const char *start_info_cmdline(const start_info *);
// End of the RAM that the image lies in; what is behind the image is free up to there.
uintptr_t start_info_memory_end(const start_info *);
