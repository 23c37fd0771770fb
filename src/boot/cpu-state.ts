import type { GuestMemory } from '../kvm/guest-memory.ts';
import { BOOT_STACK_TOP, GDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE } from './layout.ts';
import type { EntryState } from './types.ts';

/** A segment register with its hidden part, field by field as KVM_SET_SREGS has it; flags are 0 or 1. */
export type SegmentState = {
  readonly base: number;
  /** in bytes, whatever `g` says */
  readonly limit: number;
  readonly selector: number;
  readonly type: number;
  readonly present: number;
  readonly dpl: number;
  readonly db: number;
  /** 1: code or data, 0: system */
  readonly s: number;
  readonly l: number;
  readonly g: number;
  readonly avl: number;
  readonly unusable: number;
};

export type DescriptorTable = { readonly base: number; readonly limit: number };

/** Registers of vCPU 0 at the kernel's entry, as plain data. All registers that are not named are zero. */
export type EntryRegisters = {
  readonly rip: number;
  readonly rsp: number;
  readonly rsi: number;
  readonly rbx: number;
  readonly rflags: number;
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
  readonly cs: SegmentState;
  readonly ds: SegmentState;
  readonly es: SegmentState;
  readonly fs: SegmentState;
  readonly gs: SegmentState;
  readonly ss: SegmentState;
  readonly tr: SegmentState;
  readonly ldt: SegmentState;
  readonly gdt: DescriptorTable;
  readonly idt: DescriptorTable;
};

/** Selectors that the 64-bit boot protocol prescribes (__BOOT_CS, __BOOT_DS), and one for the TSS. */
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;
const BOOT_TSS = 0x20;
/** the null descriptor, an unused one, code, data, and the TSS with its upper half in long mode */
const GDT_ENTRIES = 6;

const CR0_PE = 0x0000_0001;
const CR0_ET = 0x0000_0010;
const CR0_PG = 0x8000_0000;
const CR4_PAE = 0x20;
const EFER_LME = 0x100;
const EFER_LMA = 0x400;
/** bit 1 is always set; interrupts off, direction up */
const RFLAGS = 0x2;

/** Intel SDM 3A, 4.5.4: present, writable, and a 2 MiB page. */
const PTE_PRESENT = 0x1;
const PTE_WRITABLE = 0x2;
const PTE_LARGE = 0x80;
const PAGE = 0x1000;
const LARGE_PAGE = 0x20_0000;

type Mode = EntryState['mode'];

function codeSegment(mode: Mode): SegmentState {
  const long = mode === 'long' ? 1 : 0;
  // execute, read, accessed; D must be 0 where L is 1
  return flat({ selector: BOOT_CS, type: 0xb, l: long, db: 1 - long });
}

/** read, write, accessed */
const dataSegment = flat({ selector: BOOT_DS, type: 0x3, l: 0, db: 1 });

/** A busy TSS at address 0, of the least size: VMX refuses to enter a guest without one (Intel SDM 3C, 26.3.1.2). */
const taskSegment: SegmentState = {
  base: 0,
  limit: 0x67,
  selector: BOOT_TSS,
  type: 0xb,
  present: 1,
  dpl: 0,
  db: 0,
  s: 0,
  l: 0,
  g: 0,
  avl: 0,
  unusable: 0,
};

const noSegment: SegmentState = { ...taskSegment, limit: 0, selector: 0, type: 0x2, present: 0, unusable: 1 };

function flat(segment: { selector: number; type: number; l: number; db: number }): SegmentState {
  return { base: 0, limit: 0xffff_ffff, present: 1, dpl: 0, s: 1, g: 1, avl: 0, unusable: 0, ...segment };
}

/** A segment descriptor as it stands in a GDT (Intel SDM 3A, 3.4.5). */
function descriptor(segment: SegmentState): bigint {
  const limit = BigInt(segment.g === 1 ? Math.floor(segment.limit / PAGE) : segment.limit);
  const base = BigInt(segment.base);
  const access = BigInt(segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present << 7));
  const flags = BigInt(segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3));
  return (
    (limit & 0xffffn) |
    ((base & 0xff_ffffn) << 16n) |
    (access << 40n) |
    (((limit >> 16n) & 0xfn) << 48n) |
    (flags << 52n) |
    (((base >> 24n) & 0xffn) << 56n)
  );
}

/**
 * Writes what the CPU reads in the entry mode, the GDT and in long mode the page tables, and tells how vCPU 0 starts.
 * @throws GuestFault where memory does not hold the first 64 KiB
 */
export function writeEntryState(memory: GuestMemory, mode: Mode, entry: number): EntryState {
  const gdt = new Uint8Array(GDT_ENTRIES * 8);
  const view = new DataView(gdt.buffer);
  for (const segment of [codeSegment(mode), dataSegment, taskSegment]) {
    view.setBigUint64(segment.selector, descriptor(segment), true);
  }
  memory.write(GDT, gdt);
  const common = { rip: entry, rsp: BOOT_STACK_TOP, gdt: { base: GDT, size: gdt.length } };
  if (mode === 'protected') return { ...common, mode, info: PVH_START_INFO };
  memory.write(PAGE_TABLES, identityMap());
  return { ...common, mode, cr3: PAGE_TABLES, info: ZERO_PAGE };
}

/** Page tables that map the first 4 GiB onto themselves: PML4, PDPT, four page directories of 2 MiB pages. */
function identityMap(): Uint8Array {
  const tables = new BigUint64Array((6 * PAGE) / 8);
  const pdpt = PAGE_TABLES + PAGE;
  const directories = pdpt + PAGE;
  tables[0] = BigInt(pdpt | PTE_PRESENT | PTE_WRITABLE);
  for (let i = 0; i < 4; i++) {
    tables[512 + i] = BigInt((directories + i * PAGE) | PTE_PRESENT | PTE_WRITABLE);
  }
  for (let i = 0; i < 4 * 512; i++) {
    tables[1024 + i] = BigInt(i * LARGE_PAGE + (PTE_PRESENT | PTE_WRITABLE | PTE_LARGE));
  }
  return new Uint8Array(tables.buffer);
}

/**
 * The registers of vCPU 0 for an entry state.
 * Long mode: boot.rst, "64-bit Boot Protocol"; RSI has the zero page. Protected mode: Xen, docs/misc/pvh.pandoc, "CPU
 * state on entry"; EBX has the start info.
 */
export function entryRegisters(entry: EntryState): EntryRegisters {
  const long = entry.mode === 'long';
  return {
    rip: entry.rip,
    rsp: entry.rsp,
    rsi: long ? entry.info : 0,
    rbx: long ? 0 : entry.info,
    rflags: RFLAGS,
    cr0: long ? CR0_PE + CR0_ET + CR0_PG : CR0_PE + CR0_ET,
    cr3: entry.cr3 ?? 0,
    cr4: long ? CR4_PAE : 0,
    efer: long ? EFER_LME | EFER_LMA : 0,
    cs: codeSegment(entry.mode),
    ds: dataSegment,
    es: dataSegment,
    fs: dataSegment,
    gs: dataSegment,
    ss: dataSegment,
    tr: taskSegment,
    ldt: noSegment,
    gdt: { base: entry.gdt.base, limit: entry.gdt.size - 1 },
    // Interrupts are off, and an exception before the kernel has its own table is the end in any case.
    idt: { base: 0, limit: 0 },
  };
}
