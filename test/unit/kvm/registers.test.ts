import { describe, expect, test } from 'vitest';
import { decodeCpuid, encodeCpuid } from '../../../src/kvm/cpuid-entry.ts';
import { decodeRegs, decodeSregs, encodeRegs, encodeSregs } from '../../../src/kvm/registers.ts';

/** Bytes that differ from each other by place. */
const pattern = (size: number): Uint8Array =>
  Uint8Array.from({ length: size }, (_, i) => (i * 7 + (i >> 5)) & 0xff);

describe('struct kvm_regs', () => {
  test('every byte survives decoding and encoding', () => {
    expect(encodeRegs(decodeRegs(pattern(144)))).toEqual(pattern(144));
  });

  test('registers lie where the kernel has them', () => {
    const bytes = new Uint8Array(144);
    const view = new DataView(bytes.buffer);
    // rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags
    for (let i = 0; i < 18; i++) view.setBigUint64(8 * i, BigInt(i), true);
    expect(decodeRegs(bytes)).toMatchObject({
      rax: 0n,
      rdx: 3n,
      rsp: 6n,
      r8: 8n,
      r15: 15n,
      rip: 16n,
      rflags: 17n,
    });
  });

  test.each([0, 143, 145])('%d bytes are refused', (size) => {
    expect(() => decodeRegs(new Uint8Array(size))).toThrow(RangeError);
  });
});

describe('struct kvm_sregs', () => {
  // the padding: one byte at the end of each segment, six at the end of each descriptor table
  const masked = (bytes: Uint8Array): Uint8Array => {
    const copy = bytes.slice();
    for (let i = 0; i < 8; i++) copy[24 * i + 23] = 0;
    for (const table of [192, 208]) copy.fill(0, table + 10, table + 16);
    return copy;
  };

  test('every byte but padding survives decoding and encoding', () => {
    expect(encodeSregs(decodeSregs(pattern(312)))).toEqual(masked(pattern(312)));
  });

  test('registers lie where the kernel has them', () => {
    const bytes = new Uint8Array(312);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(24, 0xffff_8000_0000_0000n, true); // ds.base
    view.setUint32(24 + 8, 0xffffffff, true); // ds.limit
    view.setUint16(24 + 12, 0x18, true); // ds.selector
    bytes[24 + 14] = 3; // type
    bytes[24 + 17] = 1; // db
    bytes[24 + 20] = 1; // g
    view.setUint16(208 + 8, 0xfff, true); // idt.limit
    view.setBigUint64(224, 0x8005_0033n, true); // cr0
    view.setBigUint64(224 + 40, 0xd01n, true); // efer
    view.setBigUint64(224 + 48, 0xfee0_0900n, true); // apic_base
    view.setBigUint64(280 + 8, 1n, true); // interrupt_bitmap[1]
    const sregs = decodeSregs(bytes);
    expect(sregs.ds).toEqual({
      base: 0xffff_8000_0000_0000n,
      limit: 0xffffffff,
      selector: 0x18,
      type: 3,
      present: 0,
      dpl: 0,
      db: 1,
      s: 0,
      l: 0,
      g: 1,
      avl: 0,
      unusable: 0,
    });
    expect(sregs.idt.limit).toBe(0xfff);
    expect(sregs).toMatchObject({ cr0: 0x8005_0033n, efer: 0xd01n, apicBase: 0xfee0_0900n });
    expect(sregs.interruptBitmap).toEqual([0n, 1n, 0n, 0n]);
  });

  test('bytes are read at their place in a larger buffer', () => {
    const large = new Uint8Array(400);
    large.set(pattern(312), 50);
    expect(decodeSregs(large.subarray(50, 362))).toEqual(decodeSregs(pattern(312)));
  });

  test.each([0, 311, 320])('%d bytes are refused', (size) => {
    expect(() => decodeSregs(new Uint8Array(size))).toThrow(RangeError);
  });
});

describe('struct kvm_cpuid2', () => {
  const entries = [
    { function: 0, index: 0, flags: 0, eax: 0x16, ebx: 1, ecx: 2, edx: 3 },
    { function: 0x80000008, index: 0xffffffff, flags: 1, eax: 0x3030, ebx: 0xffffffff, ecx: 5, edx: 6 },
  ];

  test('entries survive encoding and decoding', () => {
    expect(decodeCpuid(encodeCpuid(entries))).toEqual(entries);
    expect(decodeCpuid(encodeCpuid([]))).toEqual([]);
  });

  test('entries take 40 bytes after a header of 8, the last 12 of them padding', () => {
    const bytes = encodeCpuid(entries);
    expect(bytes).toHaveLength(88);
    const view = new DataView(bytes.buffer);
    expect(view.getUint32(0, true)).toBe(2);
    expect(view.getUint32(8 + 40, true)).toBe(0x80000008);
    expect(view.getUint32(8 + 40 + 24, true)).toBe(6);
    expect([...bytes.subarray(8 + 28, 8 + 40)]).toEqual(Array(12).fill(0));
  });

  test('a table that is cut short, or too long for its count, is refused', () => {
    const bytes = encodeCpuid(entries);
    for (const size of [0, 7, 8, 47, 87]) expect(() => decodeCpuid(bytes.slice(0, size))).toThrow(RangeError);
    expect(() => decodeCpuid(new Uint8Array(89))).toThrow(RangeError);
  });
});
