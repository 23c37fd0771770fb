/** What a kernel file turned out to be, and so how it is entered. */
export type KernelFormat =
  /** bzImage entered at its 64-bit entry point (boot protocol 2.06+, XLF_KERNEL_64) */
  | 'bzImage'
  /** ELF with a PVH note (XEN_ELFNOTE_PHYS32_ENTRY), entered in 32-bit protected mode */
  | 'pvh'
  /** ELF without it, entered at its 64-bit entry point as bzImage is */
  | 'elf64';

/** How vCPU 0 starts. The other vCPUs wait for INIT and SIPI. */
export type EntryState = {
  /** `long`: 64-bit, paging on with `cr3`; `protected`: 32-bit flat, paging off */
  readonly mode: 'long' | 'protected';
  readonly rip: number;
  readonly rsp: number;
  /** long mode: address of the page tables */
  readonly cr3?: number;
  /** guest-physical address of the zero page (long mode, in RSI) or of the PVH start info (protected mode, in EBX) */
  readonly info: number;
  /** GDT that the segment registers are loaded from: address and size in bytes */
  readonly gdt: { readonly base: number; readonly size: number };
};

/** A file that cannot be booted: one line that says which file and why. */
export class BootError extends Error {
  override readonly name = 'BootError';
  readonly code:
    /** cannot be opened or read, or is no regular file */
    | 'EKERNEL_FILE'
    | 'EKERNEL_FORMAT'
    | 'EKERNEL_TRUNCATED'
    | 'EKERNEL_ARCH'
    | 'EKERNEL_UNSUPPORTED'
    /** packed data that does not unpack, or to more than it may */
    | 'EKERNEL_PACKED'
    | 'ENO_ROOM'
    | 'ECMDLINE'
    | 'EINITRD';

  constructor(code: BootError['code'], message: string) {
    super(message);
    this.code = code;
  }
}
