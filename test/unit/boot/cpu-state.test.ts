import { expect, test } from 'vitest';
import { entryRegisters, writeEntryState } from '../../../src/boot/cpu-state.ts';
import { GDT, MIB, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE } from '../../../src/boot/layout.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';

function enter(mode: 'long' | 'protected') {
  const memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(MIB) }]);
  const entry = writeEntryState(memory, mode, 0x100_0200);
  return { memory, entry, registers: entryRegisters(entry) };
}

const descriptors = (memory: GuestMemory): string[] =>
  Array.from({ length: 6 }, (_, i) => {
    const high = memory
      .readU32(GDT + i * 8 + 4)
      .toString(16)
      .padStart(8, '0');
    return (
      high +
      memory
        .readU32(GDT + i * 8)
        .toString(16)
        .padStart(8, '0')
    );
  });

/** Walks the page tables as the CPU does (Intel SDM 3A, 4.5) and gives the physical address. */
function translate(memory: GuestMemory, cr3: number, address: number): number | undefined {
  const index = (shift: number): number => Math.floor(address / 2 ** shift) % 512;
  let table = cr3;
  for (const shift of [39, 30]) {
    const entry = memory.readU64(table + index(shift) * 8);
    if (entry % 4 !== 3) return undefined;
    table = Math.floor(entry / 4096) * 4096;
  }
  const entry = memory.readU64(table + index(21) * 8);
  // present, writable, large page
  return (entry & 0xff) === 0x83 ? Math.floor(entry / 2 ** 21) * 2 ** 21 + (address % 2 ** 21) : undefined;
}

test('long mode has a 64-bit code segment at 0x10 and a data segment at 0x18', () => {
  // flat, accessed; the same quadwords as Linux' boot GDT
  expect(descriptors(enter('long').memory)).toEqual([
    '0000000000000000',
    '0000000000000000',
    '00af9b000000ffff',
    '00cf93000000ffff',
    '00008b0000000067',
    '0000000000000000',
  ]);
});

test('protected mode has a 32-bit code segment in its place', () => {
  expect(descriptors(enter('protected').memory)[2]).toBe('00cf9b000000ffff');
});

test.each([0, 0x1000, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xc000_1234, 0xffff_ffff])(
  'the page tables map 0x%x to itself',
  (address) => {
    const { memory, registers } = enter('long');
    expect(translate(memory, registers.cr3, address)).toBe(address);
  },
);

test('the page tables map nothing above 4 GiB', () => {
  const { memory, registers } = enter('long');
  expect(translate(memory, registers.cr3, 0x1_0000_0000)).toBeUndefined();
  expect(translate(memory, registers.cr3, 0x80_0000_0000)).toBeUndefined();
});

test('page tables and GDT stay clear of what lies around them', () => {
  const { memory } = enter('long');
  expect(memory.read(ZERO_PAGE, 0x2000)).toEqual(new Uint8Array(0x2000));
  expect(memory.read(PAGE_TABLES + 0x6000, 0x1000)).toEqual(new Uint8Array(0x1000));
  expect(memory.read(GDT + 48, 16)).toEqual(new Uint8Array(16));
});

test('long mode starts with the zero page in RSI, paging and long mode on, interrupts off', () => {
  const { registers } = enter('long');
  expect(registers).toMatchObject({
    rip: 0x100_0200,
    rsi: ZERO_PAGE,
    rbx: 0,
    rflags: 0x2,
    cr0: 0x8000_0011,
    cr3: PAGE_TABLES,
    cr4: 0x20,
    efer: 0x500,
    gdt: { base: GDT, limit: 47 },
    idt: { base: 0, limit: 0 },
  });
  expect(registers.cs).toMatchObject({
    selector: 0x10,
    type: 0xb,
    s: 1,
    l: 1,
    db: 0,
    g: 1,
    present: 1,
    dpl: 0,
  });
});

test('protected mode starts with the start info in EBX, paging off', () => {
  const { registers } = enter('protected');
  expect(registers).toMatchObject({
    rip: 0x100_0200,
    rsi: 0,
    rbx: PVH_START_INFO,
    rflags: 0x2,
    cr0: 0x11,
    cr3: 0,
    cr4: 0,
    efer: 0,
  });
  expect(registers.cs).toMatchObject({ base: 0, limit: 0xffff_ffff, type: 0xb, s: 1, l: 0, db: 1, g: 1 });
});

test.each(['long', 'protected'] as const)('in %s mode data segments are flat and writable', (mode) => {
  const { ds, es, fs, gs, ss } = enter(mode).registers;
  for (const segment of [ds, es, fs, gs, ss]) {
    expect(segment).toMatchObject({
      selector: 0x18,
      base: 0,
      limit: 0xffff_ffff,
      type: 3,
      s: 1,
      db: 1,
      g: 1,
    });
  }
});

test.each(['long', 'protected'] as const)('in %s mode the task register has a busy TSS', (mode) => {
  expect(enter(mode).registers.tr).toMatchObject({ base: 0, limit: 0x67, type: 0xb, s: 0, present: 1 });
  expect(enter(mode).registers.ldt).toMatchObject({ present: 0, unusable: 1 });
});
