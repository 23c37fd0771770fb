import { BOOT_FLAG, DEFAULT_CMDLINE_LIMIT, HEADER_MAGIC, LOADED_HIGH, SETUP } from './bzimage.ts';
import type { E820Entry, MemoryRange } from './layout.ts';

/** What any kernel is told at its start. Addresses are guest-physical. */
export type BootInfo = {
  /** the command line's address and length without the NUL */
  readonly cmdline: MemoryRange;
  readonly initrd?: MemoryRange;
  /** ACPI's root pointer */
  readonly rsdp: number;
  readonly e820: readonly E820Entry[];
};

/** Fields of struct boot_params outside of the setup header (Linux, Documentation/arch/x86/zero-page.rst). */
const PARAMS = {
  acpiRsdpAddr: 0x070,
  extRamdiskImage: 0x0c0,
  extRamdiskSize: 0x0c4,
  extCmdLinePtr: 0x0c8,
  e820Entries: 0x1e8,
  e820Table: 0x2d0,
} as const;

const E820_ENTRY_SIZE = 20;
/** E820_MAX_ENTRIES_ZEROPAGE; the PVH entry of Linux copies its memory map into the zero page, so it holds there too */
export const E820_MAX_ENTRIES = 128;

const ZERO_PAGE_SIZE = 4096;
/** type_of_loader of a loader without a number assigned to it */
const LOADER_UNDEFINED = 0xff;

/**
 * Makes the zero page for the 64-bit boot protocol (boot.rst, "64-bit Boot Protocol").
 * @param setupHeader the bzImage's bytes from 0x1f1 on; an ELF kernel has none and gets the fields that Linux reads
 * @param loadAddress where a bzImage's protected-mode kernel is
 * @throws RangeError on more memory map entries than the page has room for
 */
export function zeroPage(info: BootInfo, setupHeader?: Uint8Array, loadAddress = 0): Uint8Array {
  if (info.e820.length > E820_MAX_ENTRIES) throw new RangeError(`at most ${E820_MAX_ENTRIES} e820 entries`);
  const page = new Uint8Array(ZERO_PAGE_SIZE);
  const view = new DataView(page.buffer);
  const u8 = (offset: number, value: number): void => view.setUint8(offset, value);
  const u32 = (offset: number, value: number): void => view.setUint32(offset, value, true);
  const u64 = (offset: number, value: number): void => view.setBigUint64(offset, BigInt(value), true);
  /** the low half where old protocols have it, the high half in its extension */
  const split = (low: number, high: number, value: number): void => {
    u32(low, value % 2 ** 32);
    u32(high, Math.floor(value / 2 ** 32));
  };

  if (setupHeader !== undefined) {
    page.set(setupHeader, SETUP.setupSects);
    u32(SETUP.code32Start, loadAddress);
    // A list of further data that the loader hands over. This one has none, whatever the file says.
    u64(SETUP.setupData, 0);
  } else {
    view.setUint16(SETUP.bootFlag, BOOT_FLAG, true);
    u32(SETUP.header, HEADER_MAGIC);
    view.setUint16(SETUP.version, 0x20f, true);
    u8(SETUP.loadflags, LOADED_HIGH);
    u32(SETUP.kernelAlignment, 0x0100_0000);
    u32(SETUP.cmdlineSize, DEFAULT_CMDLINE_LIMIT);
  }
  u8(SETUP.typeOfLoader, LOADER_UNDEFINED);
  split(SETUP.cmdLinePtr, PARAMS.extCmdLinePtr, info.cmdline.base);
  split(SETUP.ramdiskImage, PARAMS.extRamdiskImage, info.initrd?.base ?? 0);
  split(SETUP.ramdiskSize, PARAMS.extRamdiskSize, info.initrd?.size ?? 0);
  u64(PARAMS.acpiRsdpAddr, info.rsdp);
  u8(PARAMS.e820Entries, info.e820.length);
  info.e820.forEach(({ base, size, type }, i) => {
    const at = PARAMS.e820Table + i * E820_ENTRY_SIZE;
    u64(at, base);
    u64(at + 8, size);
    u32(at + 16, type);
  });
  return page;
}
