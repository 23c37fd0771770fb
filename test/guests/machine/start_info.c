#include "start_info.h"

#include "machine.h"

enum { START_INFO_MAGIC = 0x336ec578, USABLE = 1 };

const char *start_info_cmdline(const start_info *info) {
  if (info->magic != START_INFO_MAGIC) machine_fail("no PVH start info");
  return (const char *)info->cmdline;
}

uintptr_t start_info_memory_end(const start_info *info) {
  const memory_map_entry *entry = (const memory_map_entry *)info->memory_map;
  for (uint32_t i = 0; i < info->memory_map_entries; i++, entry++) {
    uintptr_t end = entry->address + entry->size;
    if (entry->type == USABLE && entry->address <= (uintptr_t)image_end && end > (uintptr_t)image_end)
      return end < UINT32_MAX ? end : UINT32_MAX;
  }
  machine_fail("the memory map does not have the program's memory");
}
