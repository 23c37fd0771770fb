import type { EntryState } from '../boot/types.ts';
import { entryRegisters, type SegmentState } from '../boot/cpu-state.ts';
import type { Segment } from '../kvm/registers.ts';
import type { Vcpu } from '../kvm/vcpu.ts';

const toSegment = (segment: SegmentState): Segment => ({ ...segment, base: BigInt(segment.base) });

/** IA32_MISC_ENABLE: fast string operations on */
const MSR_MISC_ENABLE = 0x1a0;
const FAST_STRINGS = 1n;
/** IA32_MTRR_DEF_TYPE: MTRRs on, memory is write-back where none says otherwise */
const MSR_MTRR_DEF_TYPE = 0x2ff;
const MTRR_WRITE_BACK = 0x806n;

/** Offsets of the local APIC's LVT registers (Intel SDM 3A, table 11-1). */
const LAPIC_LINT0 = 0x350;
const LAPIC_LINT1 = 0x360;
const DELIVERY_NMI = 0x400;
const DELIVERY_EXTINT = 0x700;

/** What firmware leaves in every processor: memory types, and the PIC and NMI on the local APIC's pins. */
export function setUpProcessor(vcpu: Vcpu): void {
  vcpu.setMsrs(
    new Map([
      [MSR_MISC_ENABLE, FAST_STRINGS],
      [MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK],
    ]),
  );
  const lapic = vcpu.state('lapic');
  const view = new DataView(lapic.buffer, lapic.byteOffset, lapic.length);
  view.setUint32(LAPIC_LINT0, DELIVERY_EXTINT, true);
  view.setUint32(LAPIC_LINT1, DELIVERY_NMI, true);
  vcpu.setState('lapic', lapic);
}

/** Puts vCPU 0 at a kernel's entry point. The others stay in wait for INIT and SIPI, as KVM makes them. */
export function startBootProcessor(vcpu: Vcpu, entry: EntryState): void {
  const registers = entryRegisters(entry);
  const { gdt, idt } = registers;
  vcpu.setSregs({
    ...vcpu.sregs(),
    cs: toSegment(registers.cs),
    ds: toSegment(registers.ds),
    es: toSegment(registers.es),
    fs: toSegment(registers.fs),
    gs: toSegment(registers.gs),
    ss: toSegment(registers.ss),
    tr: toSegment(registers.tr),
    ldt: toSegment(registers.ldt),
    gdt: { base: BigInt(gdt.base), limit: gdt.limit },
    idt: { base: BigInt(idt.base), limit: idt.limit },
    cr0: BigInt(registers.cr0),
    cr3: BigInt(registers.cr3),
    cr4: BigInt(registers.cr4),
    efer: BigInt(registers.efer),
  });
  vcpu.setRegs({
    ...vcpu.regs(),
    rip: BigInt(registers.rip),
    rsp: BigInt(registers.rsp),
    rsi: BigInt(registers.rsi),
    rbx: BigInt(registers.rbx),
    rflags: BigInt(registers.rflags),
  });
}
