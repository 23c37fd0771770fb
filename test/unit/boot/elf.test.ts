import { describe, expect, test } from 'vitest';
import { CMDLINE, e820Map, MIB, PVH_START_INFO, ZERO_PAGE } from '../../../src/boot/layout.ts';
import {
  buildElf,
  elfNote,
  KERNEL_BASE,
  pattern,
  pvhNote,
  PT_NOTE,
  sampleVmlinux,
  type ElfOptions,
} from '../../support/kernels.ts';
import { expectBootError, initrd, load, RSDP, stringAt } from './support.ts';

const code = { paddr: KERNEL_BASE, data: pattern(4096, 1) };

describe('an ELF kernel', () => {
  test('has its segments at their physical addresses, what the file lacks zeroed', () => {
    const { memory, kernel } = load(sampleVmlinux());
    const data = KERNEL_BASE + 0x10000;
    expect(memory.read(KERNEL_BASE, 3000)).toEqual(pattern(3000, 1));
    expect(memory.read(data, 2000)).toEqual(pattern(2000, 2));
    expect(memory.read(data + 2000, 6000)).toEqual(new Uint8Array(6000));
    expect(kernel).toEqual({ base: KERNEL_BASE, size: 0x10000 + 8000 });
  });

  test('has its bss zeroed also in memory that was used before', () => {
    const first = load(sampleVmlinux());
    first.memory.fill(KERNEL_BASE, 0x20000, 0xff);
    const again = load(sampleVmlinux(), {}, first.memory);
    expect(again.memory.read(KERNEL_BASE + 0x10000 + 2000, 6000)).toEqual(new Uint8Array(6000));
  });

  test('with a PVH note is entered there in protected mode', () => {
    const { format, entry } = load(sampleVmlinux());
    expect(format).toBe('pvh');
    expect(entry).toMatchObject({ mode: 'protected', rip: KERNEL_BASE + 0x850, info: PVH_START_INFO });
    expect(entry.cr3).toBeUndefined();
  });

  test.each([4, 8] as const)('may have its PVH entry in %i bytes', (size) => {
    const kernel = buildElf({ segments: [code], notes: [pvhNote(KERNEL_BASE + 0x123, size)] });
    expect(load(kernel).entry.rip).toBe(KERNEL_BASE + 0x123);
  });

  test('has its PVH note found behind notes aligned to 8 bytes', () => {
    const property = elfNote('GNU', 5, new Uint8Array(20), 8);
    const kernel = buildElf({
      segments: [code, { paddr: 0, data: property, type: PT_NOTE, align: 8 }],
      notes: [pvhNote(KERNEL_BASE + 4)],
    });
    expect(load(kernel).format).toBe('pvh');
  });

  test('whose note is of the same type but another owner is no PVH kernel', () => {
    const other = elfNote('Foo', 18, Uint8Array.of(0, 0, 0, 1, 0, 0, 0, 0));
    expect(load(buildElf({ segments: [code], notes: [other] })).format).toBe('elf64');
  });

  test('without a PVH note is entered at its entry point in long mode', () => {
    const { format, entry } = load(sampleVmlinux({ pvh: false }));
    expect(format).toBe('elf64');
    expect(entry).toMatchObject({ mode: 'long', rip: KERNEL_BASE, info: ZERO_PAGE });
  });

  test('may end with the last byte of memory', () => {
    const kernel = buildElf({ segments: [{ paddr: 64 * MIB - 4096, data: code.data }] });
    expect(load(kernel).kernel).toEqual({ base: 64 * MIB - 4096, size: 4096 });
  });

  test('may have segments in any order', () => {
    const kernel = buildElf({
      entry: KERNEL_BASE,
      segments: [{ paddr: KERNEL_BASE + 0x10000, data: pattern(10, 2) }, code],
    });
    expect(load(kernel).kernel).toEqual({ base: KERNEL_BASE, size: 0x10000 + 10 });
  });
});

describe('the zero page of an ELF kernel', () => {
  test('has the fields that Linux checks or reads', () => {
    const { memory } = load(sampleVmlinux({ pvh: false }), { initrds: [initrd('i', pattern(100, 1))] });
    expect(memory.readU16(ZERO_PAGE + 0x1fe)).toBe(0xaa55);
    expect(stringAt(memory, ZERO_PAGE + 0x202).slice(0, 4)).toBe('HdrS');
    expect(memory.readU8(ZERO_PAGE + 0x210)).toBe(0xff);
    expect(memory.readU32(ZERO_PAGE + 0x228)).toBe(CMDLINE);
    expect(memory.readU32(ZERO_PAGE + 0x218)).toBe(64 * MIB - 4096);
    expect(memory.readU32(ZERO_PAGE + 0x21c)).toBe(100);
    expect(memory.readU64(ZERO_PAGE + 0x070)).toBe(RSDP);
    expect(memory.readU8(ZERO_PAGE + 0x1e8)).toBe(e820Map(64 * MIB).length);
  });
});

describe('the PVH start info', () => {
  // struct hvm_start_info of Xen's public/arch-x86/hvm/start_info.h
  const start = (options = {}) => {
    const { memory } = load(sampleVmlinux(), { cmdline: 'quiet', ...options });
    return {
      memory,
      u32: (at: number) => memory.readU32(PVH_START_INFO + at),
      u64: (at: number) => memory.readU64(PVH_START_INFO + at),
    };
  };

  test('is version 1 with its magic', () => {
    const { u32 } = start();
    expect([u32(0), u32(4), u32(8)]).toEqual([0x336ec578, 1, 0]);
  });

  test('names command line and RSDP', () => {
    const { memory, u64 } = start();
    expect(stringAt(memory, u64(24))).toBe('quiet');
    expect(u64(32)).toBe(RSDP);
  });

  test('has the memory map', () => {
    const { memory, u32, u64 } = start();
    const entries = Array.from({ length: u32(48) }, (_, i) => ({
      base: memory.readU64(u64(40) + i * 24),
      size: memory.readU64(u64(40) + i * 24 + 8),
      type: memory.readU32(u64(40) + i * 24 + 16),
    }));
    expect(entries).toEqual(e820Map(64 * MIB));
  });

  test('has the initrd as its only module', () => {
    const { memory, u32, u64 } = start({ initrds: [initrd('i', pattern(5000, 7))] });
    expect(u32(12)).toBe(1);
    const module = u64(16);
    expect(memory.readU64(module)).toBe(64 * MIB - 8192);
    expect(memory.readU64(module + 8)).toBe(5000);
    expect(memory.read(memory.readU64(module), 5000)).toEqual(pattern(5000, 7));
  });

  test('has no modules without an initrd', () => {
    const { u32, u64 } = start();
    expect([u32(12), u64(16)]).toEqual([0, 0]);
  });

  test('fits with the longest memory map below the zero page', () => {
    const more = Array.from({ length: 128 - e820Map(64 * MIB).length }, (_, i) => ({
      base: 0x1_0000_0000 + i * MIB,
      size: MIB,
      type: 2 as const,
    }));
    const { memory, u32 } = start({ e820: [...e820Map(64 * MIB), ...more] });
    expect(u32(48)).toBe(128);
    expect(memory.readU32(ZERO_PAGE)).toBe(0);
  });
});

describe('an ELF kernel is refused', () => {
  const refused = (
    options: Partial<ElfOptions>,
    code_: 'EKERNEL_ARCH' | 'EKERNEL_FORMAT' | 'ENO_ROOM' | 'EKERNEL_UNSUPPORTED',
    message: RegExp,
  ) => expectBootError(() => load(buildElf({ segments: [code], ...options })), code_, message);

  test('where it is 32-bit', () =>
    refused({ class: 1, machine: 3 }, 'EKERNEL_ARCH', /a 32-bit ELF file for i386/));
  test('where it is for arm64', () => refused({ machine: 183 }, 'EKERNEL_ARCH', /ELF file for arm64/));
  test('where it is big-endian', () => refused({ data: 2 }, 'EKERNEL_ARCH', /big-endian/));
  test('where it is an object file', () => refused({ type: 1 }, 'EKERNEL_FORMAT', /not an executable/));
  test('without anything to load', () => refused({ segments: [] }, 'EKERNEL_FORMAT', /no program headers/));
  test('with notes only', () =>
    refused({ segments: [], notes: [pvhNote(0)] }, 'EKERNEL_FORMAT', /nothing to load/));

  test('where a segment has more bytes in the file than in memory', () =>
    refused({ segments: [{ ...code, memsz: 4095 }] }, 'EKERNEL_FORMAT', /4096 bytes in the file for 4095/));

  test('where segments overlap', () =>
    refused(
      { segments: [code, { paddr: KERNEL_BASE + 4095, data: pattern(10, 1) }] },
      'EKERNEL_FORMAT',
      /segments at 0x1000000 and 0x1000fff overlap/,
    ));

  test('where a bss overlaps the next segment', () =>
    refused(
      {
        segments: [
          { ...code, memsz: 0x2000 },
          { paddr: KERNEL_BASE + 0x1800, data: pattern(10, 1) },
        ],
      },
      'EKERNEL_FORMAT',
      /overlap/,
    ));

  test.each([0, 0x7000, 0x9000, 0xe0000, 0xfffff])('where a segment is at 0x%x', (paddr) =>
    refused({ segments: [{ ...code, paddr }] }, 'EKERNEL_UNSUPPORTED', /in the first MiB/),
  );

  test.each([0xbfff_f001, 0xfee0_0000, 0x1_0000_0000, 2n ** 64n - 1n, 2n ** 64n - 4096n])(
    'where a segment reaches into the device hole or above it: %s',
    (paddr) => refused({ segments: [{ ...code, paddr }] }, 'ENO_ROOM', /RAM for kernels ends at 0xc0000000/),
  );

  test('where a segment is bigger than the address space', () =>
    refused({ segments: [{ ...code, memsz: 2n ** 64n - 1n }] }, 'ENO_ROOM', /wants a segment/));

  test('where it needs more memory than there is', () =>
    refused(
      { segments: [{ ...code, memsz: 49 * MIB }] },
      'ENO_ROOM',
      /up to 65 MiB, the VM's ends at 64 MiB/,
    ));

  test('where its entry point is in no segment', () =>
    refused({ entry: KERNEL_BASE + 4096 }, 'EKERNEL_FORMAT', /entry point 0x1001000 is in none/));

  test('where its PVH entry point is in no segment', () =>
    refused({ notes: [pvhNote(0x1000)] }, 'EKERNEL_FORMAT', /PVH entry point 0x1000 is in none/));

  test('where its PVH note is of a wrong size', () =>
    refused({ notes: [elfNote('Xen', 18, new Uint8Array(6))] }, 'EKERNEL_FORMAT', /PVH note has 6 bytes/));

  test.each([0, 4])('where a note is longer than all notes, field %i', (at) => {
    const note = pvhNote(KERNEL_BASE);
    new DataView(note.buffer).setUint32(at, 0xffff_ffff, true);
    refused({ notes: [note] }, 'EKERNEL_FORMAT', /longer than the notes/);
  });

  test.each([10, 64, 100])('cut at %i', (length) => {
    const kernel = sampleVmlinux().subarray(0, length);
    expectBootError(() => load(kernel), 'EKERNEL_TRUNCATED', /^kernel is truncated/);
  });

  test('cut inside its last segment', () => {
    const kernel = buildElf({ segments: [code] }).subarray(0, -1);
    expectBootError(() => load(kernel), 'EKERNEL_TRUNCATED', /a segment ends at \d+, the file has \d+/);
  });

  test('where the command line is longer than Linux takes', () => {
    expect(load(sampleVmlinux(), { cmdline: 'x'.repeat(2047) }).format).toBe('pvh');
    expectBootError(() => load(sampleVmlinux(), { cmdline: 'x'.repeat(2048) }), 'ECMDLINE', /at most 2047/);
  });
});
