/**
 * Where everything lies in guest-physical memory and in port space: the only place that says so.
 * Low memory follows the PC's habits, so that kernels which scan for tables find them; the rest leaves one hole
 * for devices below 4 GiB.
 */

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** Boot-time structures of the loaders, all in the first 640 KiB, which the kernel takes back later. */
export const GDT = 0x500;
/** PVH start info and its module list and memory map; one page each is plenty */
export const PVH_START_INFO = 0x6000;
/** the Linux zero page (struct boot_params), 4 KiB */
export const ZERO_PAGE = 0x7000;
/** identity-mapping page tables for the 64-bit entry: PML4, PDPT and four page directories, 24 KiB */
export const PAGE_TABLES = 0x9000;
/** top of a small stack for entry code */
export const BOOT_STACK_TOP = 0x8ff0;
/** kernel command line, NUL-terminated, up to {@link CMDLINE_LIMIT} bytes with the NUL */
export const CMDLINE = 0x20000;
export const CMDLINE_LIMIT = 64 * KIB;
/** end of usable conventional memory; an EBDA of 1 KiB follows */
export const EBDA = 0x9fc00;
/** the legacy video and option ROM hole */
export const LEGACY_HOLE = 0xa0000;
/** ACPI tables, read-only data for the guest, reserved in the memory map; the RSDP is first */
export const ACPI_TABLES = 0xe0000;
export const ACPI_TABLES_LIMIT = 60 * KIB;
/** the VM generation id, 16 bytes alone on a page that is reserved as the tables are */
export const VM_GENERATION = ACPI_TABLES + ACPI_TABLES_LIMIT;
/** SMBIOS entry point and structures: kernels scan for it from 0xf0000 on */
export const SMBIOS = 0xf0000;
export const SMBIOS_LIMIT = 64 * KIB;
/** first byte above the first megabyte: kernels are loaded from here on */
export const HIGH_RAM = 0x100000;

/** RAM ends here at the latest; what is more continues at 4 GiB */
export const PCI_HOLE = 0xc000_0000;
export const PCI_HOLE_END = 0x1_0000_0000;
/** 32-bit window for PCI BARs */
export const PCI_MMIO32 = { base: 0xc000_0000, size: 0x2000_0000 } as const;
/**
 * PCI Express configuration space (ECAM), 1 MiB a bus, named by MCFG: one bus. Linux looks for devices on every bus
 * that MCFG names, a port access or two for each of 32 devices; 256 buses would cost a boot 16000 exits.
 */
export const PCI_ECAM = { base: 0xe000_0000, size: MIB } as const;
/** virtio-mmio transports, one page each */
export const VIRTIO_MMIO = { base: 0xfeb0_0000, size: 0x10_0000 } as const;
export const IOAPIC = 0xfec0_0000;
export const LAPIC = 0xfee0_0000;
/** KVM's private pages on Intel hosts: one for the identity map, three for the TSS */
export const KVM_IDENTITY_MAP = 0xfeff_c000;
export const KVM_TSS = 0xfeff_d000;

/** Interrupt lines (GSIs) of the board. */
export const GSI = {
  keyboard: 1,
  com1: 4,
  rtc: 8,
  sci: 9,
} as const;
/** Lines of INTA# of the PCI devices, in turn; above the PICs' 16, as on any PC with an IOAPIC. */
export const PCI_GSIS: readonly number[] = [16, 17, 18, 19];
/** Lines of the PICs that the legacy devices leave; kernels know them without ACPI. */
export const FREE_ISA_GSIS: readonly number[] = [5, 10, 11, 7, 6, 15, 14];
/** Lines of virtio-mmio transports, one each: first those of the IOAPIC alone. */
export const VIRTIO_MMIO_GSIS: readonly number[] = [16, 17, 18, 19, 20, 21, 22, 23, ...FREE_ISA_GSIS];

/** General-purpose events of block 0, by their bits. */
export const GPE = { generation: 0 } as const;

/** I/O ports of the board. */
export const PORT = {
  i8042Data: 0x60,
  i8042Status: 0x64,
  cmosIndex: 0x70,
  cmosData: 0x71,
  /** system control port A: fast A20 and reset */
  systemControlA: 0x92,
  com1: 0x3f8,
  /** pvpanic, ACPI device QEMU0001, 1 byte */
  pvpanic: 0x505,
  /** PM1a event block: status and enable, 2 bytes each */
  pm1aEvent: 0x600,
  /** PM1a control block, 2 bytes */
  pm1aControl: 0x604,
  /** ACPI power management timer, 4 bytes, 32 bits wide */
  pmTimer: 0x608,
  /** general-purpose event block 0: status and enable, a byte each */
  gpe0: 0x60c,
  pciConfigAddress: 0xcf8,
  /** PIIX-style reset control, inside the PCI configuration address dword */
  reset: 0xcf9,
  pciConfigData: 0xcfc,
} as const;

/** What ACPI's reset register wants written to {@link PORT.reset}: full reset, CPU reset. */
export const RESET_VALUE = 0x06;

/** SLP_TYP values that the DSDT's \_Sx packages announce. */
export const SLEEP_TYPE = { s5: 5 } as const;

/** Most vCPUs a board takes. */
export const MAX_VCPUS = 32;

export type MemoryRange = { base: number; size: number };

/** Where `size` bytes of RAM lie: below the PCI hole, and from 4 GiB on for the rest. */
export function ramRanges(size: number): MemoryRange[] {
  if (size <= PCI_HOLE) return [{ base: 0, size }];
  return [
    { base: 0, size: PCI_HOLE },
    { base: PCI_HOLE_END, size: size - PCI_HOLE },
  ];
}

/** Types of the e820 memory map (ACPI 6.4, 15 "System Address Map Interfaces"). */
export type E820Type = 1 | 2;
export const E820_RAM: E820Type = 1;
export const E820_RESERVED: E820Type = 2;
export type E820Entry = MemoryRange & { type: E820Type };

/** The memory map the guest is told: RAM without what the tables and the legacy hole take. */
export function e820Map(size: number): E820Entry[] {
  const map: E820Entry[] = [
    { base: 0, size: EBDA, type: E820_RAM },
    { base: EBDA, size: LEGACY_HOLE - EBDA, type: E820_RESERVED },
    { base: ACPI_TABLES, size: HIGH_RAM - ACPI_TABLES, type: E820_RESERVED },
  ];
  for (const range of ramRanges(size)) {
    const base = Math.max(range.base, HIGH_RAM);
    map.push({ base, size: range.base + range.size - base, type: E820_RAM });
  }
  // Linux uses ECAM only where firmware has reserved it (PCI Firmware Specification 3.3, 4.1.2).
  map.push({ base: PCI_ECAM.base, size: PCI_ECAM.size, type: E820_RESERVED });
  return map.sort((a, b) => a.base - b.base);
}
