import { EXIT, exitName, INTERNAL_ERROR } from '../kvm/constants.ts';
import type { GuestMemory } from '../kvm/guest-memory.ts';
import type { GeneralRegisters, Segment, SpecialRegisters } from '../kvm/registers.ts';
import type { Vcpu, VcpuExit } from '../kvm/vcpu.ts';

const CODE_BEFORE = 16;
const CODE_AFTER = 32;
const ADDRESS_MASK = 0x000f_ffff_ffff_f000n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const CR4_LA57 = 1n << 12n;
const EFER_LMA = 1n << 10n;

const hex = (value: bigint | number, digits = 16): string => value.toString(16).padStart(digits, '0');

/** One line for a person on why the vCPU stopped. */
export function describeExit(exit: VcpuExit): string {
  const detail = new DataView(exit.detail.buffer, exit.detail.byteOffset, exit.detail.length);
  switch (exit.reason) {
    case EXIT.shutdown:
      return `vCPU ${exit.vcpu} shut down: triple fault`;
    case EXIT.internalError: {
      const suberror = detail.getUint32(0, true);
      const what = INTERNAL_ERROR.get(suberror) ?? 'an error of its own';
      return `vCPU ${exit.vcpu}: KVM internal error ${suberror}: ${what}`;
    }
    case EXIT.failEntry:
      return `vCPU ${exit.vcpu}: the CPU refused to enter the guest, hardware reason 0x${detail.getBigUint64(0, true).toString(16)}`;
    case EXIT.runFailed:
      return `vCPU ${exit.vcpu}: KVM_RUN failed with errno ${exit.errno}`;
    case EXIT.systemEvent:
      return `vCPU ${exit.vcpu}: system event ${detail.getUint32(0, true)}`;
    default:
      return `vCPU ${exit.vcpu} stopped: ${exitName(exit.reason)}`;
  }
}

/** Registers, code bytes and page-table walk of a vCPU that stopped, as text of several lines. */
export function reportExit(exit: VcpuExit, vcpu: Vcpu, memory: GuestMemory): string {
  const lines = [describeExit(exit)];
  if (exit.reason === EXIT.internalError) lines.push(`data: ${internalData(exit.detail)}`);
  try {
    const regs = vcpu.regs();
    const sregs = vcpu.sregs();
    lines.push(...generalLines(regs), ...specialLines(sregs));
    const linear =
      sregs.efer & EFER_LMA && sregs.cs.l ? regs.rip : BigInt.asUintN(32, sregs.cs.base + regs.rip);
    const { physical, steps } = walk(linear, sregs, memory);
    lines.push(`page walk of rip ${hex(linear)}: ${steps.join(', ')}`);
    if (physical !== undefined) lines.push(`code: ${codeBytes(physical, memory)}`);
  } catch (error) {
    lines.push(`(its state cannot be read: ${error instanceof Error ? error.message : String(error)})`);
  }
  return lines.join('\n');
}

/** KVM_EXIT_INTERNAL_ERROR: suberror, ndata, then up to 16 64-bit numbers */
function internalData(detail: Uint8Array): string {
  const view = new DataView(detail.buffer, detail.byteOffset, detail.length);
  const count = Math.min(view.getUint32(4, true), 16);
  return Array.from({ length: count }, (_, i) => hex(view.getBigUint64(8 + 8 * i, true))).join(' ');
}

function generalLines(regs: GeneralRegisters): string[] {
  const entries = Object.entries(regs);
  const lines: string[] = [];
  for (let i = 0; i < entries.length; i += 3) {
    lines.push(
      entries
        .slice(i, i + 3)
        .map(([name, value]) => `${name.padEnd(6)} ${hex(value)}`)
        .join('  '),
    );
  }
  return lines;
}

function specialLines(sregs: SpecialRegisters): string[] {
  const segment = (name: string, s: Segment): string =>
    `${name.padEnd(3)} ${hex(s.selector, 4)} base ${hex(s.base)} limit ${hex(s.limit, 8)} type ${hex(s.type, 1)} dpl ${s.dpl} p ${s.present} l ${s.l} db ${s.db}`;
  return [
    `cr0 ${hex(sregs.cr0)}  cr2 ${hex(sregs.cr2)}  cr3 ${hex(sregs.cr3)}`,
    `cr4 ${hex(sregs.cr4)}  efer ${hex(sregs.efer)}  apic ${hex(sregs.apicBase)}`,
    segment('cs', sregs.cs),
    segment('ss', sregs.ss),
    segment('ds', sregs.ds),
    segment('tr', sregs.tr),
    `gdt ${hex(sregs.gdt.base)} limit ${hex(sregs.gdt.limit, 4)}  idt ${hex(sregs.idt.base)} limit ${hex(sregs.idt.limit, 4)}`,
  ];
}

/**
 * Translates a linear address as the CPU would and tells each step: 4- or 5-level paging (Intel SDM 3A, 4.5), PAE
 * and 32-bit paging by KVM alone.
 */
export function walk(
  linear: bigint,
  sregs: SpecialRegisters,
  memory: GuestMemory,
): { physical: bigint | undefined; steps: string[] } {
  if ((sregs.cr0 & CR0_PG) === 0n) return { physical: linear, steps: ['paging is off'] };
  if ((sregs.efer & EFER_LMA) === 0n) {
    const kind = sregs.cr4 & CR4_PAE ? 'PAE' : '32-bit';
    return { physical: undefined, steps: [`${kind} paging, not walked`] };
  }
  const levels = sregs.cr4 & CR4_LA57 ? 5 : 4;
  const steps: string[] = [];
  let table = sregs.cr3 & ADDRESS_MASK;
  for (let level = levels; level >= 1; level--) {
    const shift = BigInt(12 + 9 * (level - 1));
    const at = table + 8n * ((linear >> shift) & 0x1ffn);
    if (at + 8n > BigInt(Number.MAX_SAFE_INTEGER) || !memory.contains(Number(at), 8)) {
      steps.push(`level ${level} at ${hex(at)}: outside RAM`);
      return { physical: undefined, steps };
    }
    const bytes = memory.read(Number(at), 8);
    const entry = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
    steps.push(`level ${level} ${hex(entry)}`);
    if ((entry & 1n) === 0n) {
      steps.push('not present');
      return { physical: undefined, steps };
    }
    const large = level > 1 && level <= 3 && (entry & 0x80n) !== 0n;
    if (large || level === 1) {
      const offset = (1n << shift) - 1n;
      const physical = (entry & ADDRESS_MASK & ~offset) | (linear & offset);
      steps.push(`physical ${hex(physical)}`);
      return { physical, steps };
    }
    table = entry & ADDRESS_MASK;
  }
  return { physical: undefined, steps };
}

/** Bytes around an instruction, the one at `physical` in angle brackets. */
function codeBytes(physical: bigint, memory: GuestMemory): string {
  const at = Number(physical);
  const bytes: string[] = [];
  for (let address = Math.max(0, at - CODE_BEFORE); address < at + CODE_AFTER; address++) {
    if (!memory.contains(address, 1)) continue;
    const byte = hex(memory.readU8(address), 2);
    bytes.push(address === at ? `<${byte}>` : byte);
  }
  return bytes.length > 0 ? bytes.join(' ') : 'outside RAM';
}
