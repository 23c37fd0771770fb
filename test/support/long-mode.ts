import { openKvm } from '../../src/kvm/system.ts';
import { GuestRam } from '../../src/kvm/memory.ts';
import { KvmVm } from '../../src/kvm/vm.ts';
import type { Segment } from '../../src/kvm/registers.ts';
import type { Vcpu, VcpuExit } from '../../src/kvm/vcpu.ts';
import { GIB, KVM_IDENTITY_MAP, KVM_TSS, MIB } from '../../src/boot/layout.ts';

export type LongModeVm = { vm: KvmVm; ram: GuestRam; vcpu: Vcpu; run(): Promise<VcpuExit> };

export type LongModeOptions = {
  readonly ranges?: readonly { readonly base: number; readonly size: number }[];
  readonly irqchip?: boolean;
};

export const CODE64 = 0x1000;
/** Interrupt descriptors, all absent at first; {@link setVector} puts one in. */
export const IDT = 0x2000;
export const HANDLER = 0x4000;
const GDT = 0x3000;
const STACK_TOP = 0x8000;
const PML4 = 0x10000;
/** so many GiB are mapped, each address to itself */
const MAPPED_GIB = 8;

const FLAT: Segment = {
  base: 0n,
  limit: 0xffffffff,
  selector: 0x10,
  type: 3,
  present: 1,
  dpl: 0,
  db: 1,
  s: 1,
  l: 0,
  g: 1,
  avl: 0,
  unusable: 0,
};

/** A VM with one vCPU in ring 0 of long mode that runs `code` at {@link CODE64}, the first 8 GiB mapped 1:1. */
export function longModeVm(code: readonly number[], options: LongModeOptions = {}): LongModeVm {
  const kvm = openKvm();
  const vm = new KvmVm(kvm, {
    identityMapAddress: KVM_IDENTITY_MAP,
    tssAddress: KVM_TSS,
    irqchip: options.irqchip ?? false,
    pit: false,
  });
  const cpuid = kvm.supportedCpuid();
  kvm.close();
  const ram = new GuestRam({ ranges: options.ranges ?? [{ base: 0, size: MIB }] });
  vm.mapRam(ram);
  const { memory } = ram;
  memory.write(CODE64, Uint8Array.from(code));
  memory.writeU64(PML4, PML4 + 0x1000 + 3);
  for (let gib = 0; gib < MAPPED_GIB; gib++) {
    const directory = PML4 + 0x2000 + gib * 0x1000;
    memory.writeU64(PML4 + 0x1000 + gib * 8, directory + 3);
    // present, writable, 2 MiB
    for (let i = 0; i < 512; i++) memory.writeU64(directory + i * 8, gib * GIB + i * 2 * MIB + 0x83);
  }
  // 64-bit code at selector 8, data at 0x10
  memory.write(GDT + 8, Uint8Array.of(0xff, 0xff, 0, 0, 0, 0x9b, 0xaf, 0));
  memory.write(GDT + 16, Uint8Array.of(0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0));

  const vcpu = vm.createVcpu();
  vcpu.setCpuid(cpuid);
  const sregs = vcpu.sregs();
  vcpu.setSregs({
    ...sregs,
    cs: { ...FLAT, selector: 8, type: 11, db: 0, l: 1 },
    ds: FLAT,
    es: FLAT,
    fs: FLAT,
    gs: FLAT,
    ss: FLAT,
    gdt: { base: BigInt(GDT), limit: 23 },
    idt: { base: BigInt(IDT), limit: 0xfff },
    cr0: 0x80000011n, // PG, ET, PE
    cr3: BigInt(PML4),
    cr4: 0x20n, // PAE
    efer: 0x500n, // LMA, LME
  });
  vcpu.setRegs({ ...vcpu.regs(), rip: BigInt(CODE64), rflags: 2n, rsp: BigInt(STACK_TOP) });
  const run = (): Promise<VcpuExit> =>
    new Promise((resolve) => {
      vm.onExit = resolve;
      vm.resume();
    });
  return { vm, ram, vcpu, run };
}

/** An interrupt gate: `vector` goes to the handler's address (below 64 KiB). */
export function setVector({ ram: { memory } }: LongModeVm, vector: number, handler = HANDLER): void {
  memory.writeU16(IDT + 16 * vector, handler);
  memory.writeU16(IDT + 16 * vector + 2, 8);
  memory.writeU16(IDT + 16 * vector + 4, 0x8e00);
}
