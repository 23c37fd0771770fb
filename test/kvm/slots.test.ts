import { afterEach, describe, expect, test } from 'vitest';
import { GuestRam } from '../../src/kvm/memory.ts';
import { longModeVm } from '../support/long-mode.ts';
import { runToHalt, tinyGuests, TINY_RAM } from '../support/tiny-guests.ts';
import { HLT, real } from '../support/x86.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const OUT = 0x600;
/** where the extra memory of these guests lies */
const EXTRA = 0xc0000;

const guest = tinyGuests();
const open: GuestRam[] = [];
afterEach(() => {
  for (const ram of open.splice(0)) ram.close();
});

function extra(pages: number): GuestRam {
  const ram = new GuestRam({ ranges: [{ base: 0, size: pages * PAGE }] });
  open.push(ram);
  return ram;
}

describe('read-only slots', () => {
  test('are read by the guest as memory, writes arrive on the bus and change nothing', async () => {
    const tiny = guest(
      real.movDs(EXTRA >> 4),
      real.movAx(0xbeef),
      real.storeAx(0x10),
      real.loadAx(0x10),
      [0x31, 0xdb, 0x8e, 0xdb], // xor bx, bx; mov ds, bx
      real.storeAx(OUT),
    );
    const rom = extra(4);
    rom.memory.writeU16(0x10, 0x1234);
    tiny.vm.native.setMemory({
      slot: 5,
      address: EXTRA,
      size: 4 * PAGE,
      memory: rom.native,
      offset: 0,
      readOnly: true,
      logDirty: false,
    });
    const writes: number[][] = [];
    tiny.vm.add({
      name: 'rom',
      space: 'mmio',
      base: EXTRA,
      size: 4 * PAGE,
      reads: 'trap',
      writes: 'trap',
      write: (...access) => void writes.push(access),
    });
    await runToHalt(tiny);
    expect(writes).toEqual([[0x10, 2, 0xbeef]]);
    expect(tiny.ram.memory.readU16(OUT)).toBe(0x1234);
    expect(rom.memory.readU16(0x10)).toBe(0x1234);
  });
});

describe('the dirty log', () => {
  const dirtyPages = (log: Uint8Array): number[] =>
    [...log].flatMap((byte, i) =>
      [...Array(8).keys()].filter((bit) => byte & (1 << bit)).map((bit) => i * 8 + bit),
    );

  test('has one bit for each page of the slot that the guest wrote since it was asked last', async () => {
    const store = (page: number) => [...real.movDs((EXTRA + page * PAGE) >> 4), ...real.storeAl(0x20)];
    const tiny = guest(store(1), store(9), [HLT], store(2));
    const ram = extra(100);
    tiny.vm.native.setMemory({
      slot: 3,
      address: EXTRA,
      size: 12 * PAGE,
      memory: ram.native,
      offset: 64 * PAGE,
      readOnly: false,
      logDirty: true,
    });
    tiny.vm.native.dirtyLog(3);
    await runToHalt(tiny);
    const log = tiny.vm.native.dirtyLog(3);
    // whole 64-bit words for 12 pages
    expect(log).toHaveLength(8);
    expect(dirtyPages(log)).toEqual([1, 9]);
    await runToHalt(tiny);
    expect(dirtyPages(tiny.vm.native.dirtyLog(3))).toEqual([2]);
    expect(dirtyPages(tiny.vm.native.dirtyLog(3))).toEqual([]);
    // written through the window: the host's own business
    ram.memory.writeU8(70 * PAGE, 1);
    expect(dirtyPages(tiny.vm.native.dirtyLog(3))).toEqual([]);
  });

  test('there is none for a slot that is not there, or does not log', () => {
    const tiny = guest();
    expect(() => tiny.vm.native.dirtyLog(9)).toThrow(RangeError);
    expect(() => tiny.vm.native.dirtyLog(0)).toThrow('KVM_GET_DIRTY_LOG');
  });
});

describe('slots', () => {
  test('a slot that was taken away is an empty bus, and may come back elsewhere', async () => {
    const load = [...real.movDs(EXTRA >> 4), ...real.loadAx(0)];
    const tiny = guest(load, [HLT], load, [HLT], load);
    const ram = extra(2);
    ram.memory.writeU16(0, 0x1111);
    ram.memory.writeU16(PAGE, 0x2222);
    const { native } = tiny.vm;
    const slot = {
      slot: 1,
      address: EXTRA,
      size: PAGE,
      memory: ram.native,
      readOnly: false,
      logDirty: false,
    };
    const ax = (): bigint => tiny.vcpu.regs().rax & 0xffffn;
    native.setMemory({ ...slot, offset: 0 });
    await runToHalt(tiny);
    expect(ax()).toBe(0x1111n);
    native.setMemory({ slot: 1, address: 0, size: 0 });
    await runToHalt(tiny);
    expect(ax()).toBe(0xffffn);
    native.setMemory({ ...slot, offset: PAGE });
    await runToHalt(tiny);
    expect(ax()).toBe(0x2222n);
  });

  test('must lie within their memory, and not over another', () => {
    const { vm } = guest();
    const ram = extra(2);
    const slot = { slot: 1, address: EXTRA, memory: ram.native, readOnly: false, logDirty: false };
    expect(() => vm.native.setMemory({ ...slot, size: 3 * PAGE, offset: 0 })).toThrow(RangeError);
    expect(() => vm.native.setMemory({ ...slot, size: PAGE, offset: 2 * PAGE })).toThrow(RangeError);
    expect(() => vm.native.setMemory({ ...slot, address: TINY_RAM - PAGE, size: PAGE, offset: 0 })).toThrow(
      'EEXIST',
    );
  });

  test('memory that is closed under a VM reads as zeros in the guest', async () => {
    const tiny = guest(real.movDs(EXTRA >> 4), real.loadAx(0));
    const ram = extra(1);
    ram.memory.writeU16(0, 0x1111);
    tiny.vm.native.setMemory({
      slot: 1,
      address: EXTRA,
      size: PAGE,
      memory: ram.native,
      offset: 0,
      readOnly: false,
      logDirty: false,
    });
    ram.close();
    await runToHalt(tiny);
    expect(tiny.vcpu.regs().rax & 0xffffn).toBe(0n);
  });

  test('a guest in long mode uses RAM above 4 GiB', async () => {
    const long = longModeVm(
      [
        ...[0x48, 0xa1, 0, 0, 0, 0x40, 1, 0, 0, 0], // mov rax, [5 GiB]
        ...[0x48, 0xff, 0xc0], // inc rax
        ...[0x48, 0xa3, 0xf8, 0xff, 0xff, 0x7f, 1, 0, 0, 0], // mov [6 GiB - 8], rax
        HLT,
      ],
      {
        ranges: [
          { base: 0, size: 3 * GIB },
          { base: 4 * GIB, size: 2 * GIB },
        ],
      },
    );
    open.push(long.ram);
    long.ram.memory.writeU64(5 * GIB, 2 ** 40 + 41);
    await runToHalt(long);
    expect(long.ram.memory.readU64(6 * GIB - 8)).toBe(2 ** 40 + 42);
    long.vm.close();
  });

  test('an 8-byte access to memory-mapped registers comes as two of 4 bytes, the lower first', async () => {
    const long = longModeVm([
      ...[0x48, 0xa1, 0, 0, 0, 0xd0, 0, 0, 0, 0], // mov rax, [0xd0000000]
      ...[0x48, 0xa3, 8, 0, 0, 0xd0, 0, 0, 0, 0], // mov [0xd0000008], rax
      HLT,
    ]);
    open.push(long.ram);
    const calls: number[][] = [];
    long.vm.add({
      name: 'registers',
      space: 'mmio',
      base: 0xd0000000,
      size: 16,
      reads: 'trap',
      writes: 'posted',
      read: (offset, size) => {
        calls.push([offset, size]);
        return 0x11111111 + offset;
      },
      write: (...access) => void calls.push(access),
    });
    await runToHalt(long);
    expect(calls).toEqual([
      [0, 4],
      [4, 4],
      [8, 4, 0x11111111],
      [12, 4, 0x11111115],
    ]);
    expect(long.vcpu.regs().rax).toBe(0x1111111511111111n);
    long.vm.close();
  });
});
