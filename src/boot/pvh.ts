import { PVH_START_INFO } from './layout.ts';
import { E820_MAX_ENTRIES, type BootInfo } from './zero-page.ts';

/** struct hvm_start_info, version 1 (Xen, include/public/arch-x86/hvm/start_info.h), and what it points to */
const START_INFO = {
  magic: 0,
  version: 4,
  flags: 8,
  moduleCount: 12,
  modules: 16,
  cmdline: 24,
  rsdp: 32,
  memoryMap: 40,
  memoryMapEntries: 48,
} as const;
const MAGIC = 0x336ec578;
/** struct hvm_modlist_entry: address, size, command line, reserved; 8 bytes each */
const MODULES_OFFSET = 0x40;
/** struct hvm_memmap_table_entry: address, size, type, reserved */
const MEMORY_MAP_OFFSET = 0x80;
const MEMORY_MAP_ENTRY_SIZE = 24;

/**
 * Makes the PVH start info with its module list and memory map, to be put at {@link PVH_START_INFO}.
 * @throws RangeError on more memory map entries than Linux takes
 */
export function pvhStartInfo(info: BootInfo): Uint8Array {
  if (info.e820.length > E820_MAX_ENTRIES) throw new RangeError(`at most ${E820_MAX_ENTRIES} e820 entries`);
  const bytes = new Uint8Array(MEMORY_MAP_OFFSET + info.e820.length * MEMORY_MAP_ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  const u32 = (offset: number, value: number): void => view.setUint32(offset, value, true);
  const u64 = (offset: number, value: number): void => view.setBigUint64(offset, BigInt(value), true);

  u32(START_INFO.magic, MAGIC);
  u32(START_INFO.version, 1);
  u64(START_INFO.cmdline, info.cmdline.base);
  u64(START_INFO.rsdp, info.rsdp);
  if (info.initrd !== undefined) {
    u32(START_INFO.moduleCount, 1);
    u64(START_INFO.modules, PVH_START_INFO + MODULES_OFFSET);
    u64(MODULES_OFFSET, info.initrd.base);
    u64(MODULES_OFFSET + 8, info.initrd.size);
  }
  u64(START_INFO.memoryMap, PVH_START_INFO + MEMORY_MAP_OFFSET);
  u32(START_INFO.memoryMapEntries, info.e820.length);
  info.e820.forEach(({ base, size, type }, i) => {
    const at = MEMORY_MAP_OFFSET + i * MEMORY_MAP_ENTRY_SIZE;
    u64(at, base);
    u64(at + 8, size);
    // The types of e820 and of XEN_HVM_MEMMAP_TYPE are the same numbers.
    u32(at + 16, type);
  });
  return bytes;
}
