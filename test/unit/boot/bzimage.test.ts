import { describe, expect, test } from 'vitest';
import { CMDLINE, E820_RAM, e820Map, MIB, ZERO_PAGE } from '../../../src/boot/layout.ts';
import { loadLinux } from '../../../src/boot/load.ts';
import { bytesSource } from '../../../src/boot/source.ts';
import { buildBzImage, guardedMemory, KERNEL_BASE, pattern } from '../../support/kernels.ts';
import { expectBootError, initrd, load, RSDP, stringAt } from './support.ts';

// Offsets in struct boot_params are those of Linux' Documentation/arch/x86/{boot,zero-page}.rst.

describe('a bzImage', () => {
  test('is loaded at its preferred address without its setup part', () => {
    const kernel = buildBzImage({ setupSects: 3, payload: pattern(1000, 9) });
    const { memory, format } = load(kernel);
    expect(format).toBe('bzImage');
    expect(memory.read(KERNEL_BASE, kernel.length - 4 * 512)).toEqual(kernel.slice(4 * 512));
  });

  test('is entered 0x200 behind its load address in long mode', () => {
    const { entry } = load(buildBzImage());
    expect(entry).toMatchObject({ mode: 'long', rip: KERNEL_BASE + 0x200, info: ZERO_PAGE });
  });

  test('with setup_sects 0 has 4 setup sectors', () => {
    const kernel = buildBzImage({ setupSects: 0 });
    const { memory } = load(kernel);
    expect(memory.read(KERNEL_BASE, 64)).toEqual(kernel.slice(5 * 512, 5 * 512 + 64));
  });

  test('takes the room that init_size asks for', () => {
    const { kernel } = load(buildBzImage({ initSize: 0x123_4000 }));
    expect(kernel).toEqual({ base: KERNEL_BASE, size: 0x123_4000 });
  });

  test('that is relocatable is moved up to its alignment', () => {
    const { entry } = load(buildBzImage({ prefAddress: 16 * MIB + 0x1000, kernelAlignment: 4 * MIB }));
    expect(entry.rip).toBe(20 * MIB + 0x200);
  });

  test('that is not relocatable stays at its preferred address, aligned or not', () => {
    const { entry } = load(
      buildBzImage({ prefAddress: 16 * MIB + 0x1000, kernelAlignment: 4 * MIB, relocatable: false }),
    );
    expect(entry.rip).toBe(16 * MIB + 0x1200);
  });

  test('ignores what the file has behind the kernel, such as a signature', () => {
    const kernel = buildBzImage();
    const signed = new Uint8Array(kernel.length + 5000).fill(0xee);
    signed.set(kernel);
    const { memory } = load(signed);
    expect(memory.readU8(KERNEL_BASE + kernel.length - 4 * 512)).toBe(0);
  });
});

describe('the zero page of a bzImage', () => {
  test('has the setup header of the file up to where the header ends', () => {
    const kernel = buildBzImage();
    const { memory } = load(kernel);
    expect(memory.read(ZERO_PAGE + 0x1f1, 0x1f)).toEqual(kernel.slice(0x1f1, 0x210));
    expect(memory.read(ZERO_PAGE + 0x22c, 0x250 - 0x22c)).toEqual(kernel.slice(0x22c, 0x250));
    expect(memory.read(ZERO_PAGE + 0x258, 0x14)).toEqual(kernel.slice(0x258, 0x26c));
    // 0x202 + 0x6a, the displacement of the jump at 0x200
    expect(memory.read(ZERO_PAGE + 0x26c, 0x290 - 0x26c)).toEqual(new Uint8Array(0x290 - 0x26c));
  });

  test('says that the loader has no number', () => {
    expect(load(buildBzImage()).memory.readU8(ZERO_PAGE + 0x210)).toBe(0xff);
  });

  test('never passes on setup_data of the file', () => {
    expect(load(buildBzImage()).memory.readU64(ZERO_PAGE + 0x250)).toBe(0);
  });

  test('is cleared where nothing is said, so that the kernel sees its sentinel as zero', () => {
    const memory = load(buildBzImage()).memory;
    expect(memory.readU8(ZERO_PAGE + 0x1ef)).toBe(0);
  });

  test('names the command line, which ends with a NUL', () => {
    const { memory } = load(buildBzImage(), { cmdline: 'root=/dev/vda1 ro ü' });
    expect(memory.readU32(ZERO_PAGE + 0x228)).toBe(CMDLINE);
    expect(memory.readU32(ZERO_PAGE + 0x0c8)).toBe(0);
    expect(stringAt(memory, CMDLINE)).toBe('root=/dev/vda1 ro ü');
  });

  test('names the RSDP', () => {
    expect(load(buildBzImage()).memory.readU64(ZERO_PAGE + 0x070)).toBe(RSDP);
  });

  test('has the memory map entry by entry', () => {
    const { memory } = load(buildBzImage(), { ram: 64 * MIB });
    const map = e820Map(64 * MIB);
    const read = Array.from({ length: memory.readU8(ZERO_PAGE + 0x1e8) }, (_, i) => ({
      base: memory.readU64(ZERO_PAGE + 0x2d0 + i * 20),
      size: memory.readU64(ZERO_PAGE + 0x2d0 + i * 20 + 8),
      type: memory.readU32(ZERO_PAGE + 0x2d0 + i * 20 + 16),
    }));
    expect(read).toEqual(map);
    expect(read).toContainEqual({ base: MIB, size: 63 * MIB, type: E820_RAM });
  });

  test('names the initrd', () => {
    const { memory, initrd: range } = load(buildBzImage(), { initrds: [initrd('i', pattern(5000, 1))] });
    expect(range).toEqual({ base: 64 * MIB - 8192, size: 5000 });
    expect(memory.readU32(ZERO_PAGE + 0x218)).toBe(64 * MIB - 8192);
    expect(memory.readU32(ZERO_PAGE + 0x21c)).toBe(5000);
    expect(memory.readU32(ZERO_PAGE + 0x0c0)).toBe(0);
    expect(memory.readU32(ZERO_PAGE + 0x0c4)).toBe(0);
  });

  test('has no initrd where none is given', () => {
    const { memory, initrd: range } = load(buildBzImage());
    expect(range).toBeUndefined();
    expect(memory.readU32(ZERO_PAGE + 0x218)).toBe(0);
    expect(memory.readU32(ZERO_PAGE + 0x21c)).toBe(0);
  });
});

describe('a bzImage is refused', () => {
  test('without a 64-bit entry point', () => {
    const kernel = buildBzImage({ xloadflags: 2 });
    expectBootError(() => load(kernel), 'EKERNEL_UNSUPPORTED', /^kernel has no 64-bit entry point/);
  });

  test('where its protocol is older than the flag for it', () => {
    const kernel = buildBzImage({ version: 0x20b });
    expectBootError(() => load(kernel), 'EKERNEL_UNSUPPORTED', /no 64-bit entry point/);
  });

  test('where its protocol is older than 2.06', () => {
    const kernel = buildBzImage({ version: 0x205 });
    expectBootError(() => load(kernel), 'EKERNEL_UNSUPPORTED', /protocol 2\.05, at least 2\.06/);
  });

  test('where it is a zImage', () => {
    expectBootError(() => load(buildBzImage({ loadflags: 0 })), 'EKERNEL_UNSUPPORTED', /zImage/);
  });

  test('cut by one byte', () => {
    const kernel = buildBzImage().subarray(0, -1);
    expectBootError(() => load(kernel), 'EKERNEL_TRUNCATED', /^kernel is truncated: \d+ bytes by its/);
  });

  test.each([0x208, 0x230, 0x28f])('cut inside the setup header, at 0x%x', (length) => {
    const kernel = buildBzImage().subarray(0, length);
    expectBootError(() => load(kernel), 'EKERNEL_TRUNCATED', /inside the setup header/);
  });

  test('where it wants to be loaded over the boot structures', () => {
    const kernel = buildBzImage({ prefAddress: 0x8000, relocatable: false });
    expectBootError(() => load(kernel), 'EKERNEL_FORMAT', /wants to be loaded at 0x8000/);
  });

  test.each([0, 3, 0x201000])('with the alignment 0x%x', (kernelAlignment) => {
    expectBootError(() => load(buildBzImage({ kernelAlignment })), 'EKERNEL_FORMAT', /no power of two/);
  });

  test('where its preferred address is beyond any memory', () => {
    const kernel = buildBzImage({ prefAddress: 2n ** 64n - 0x1000n, relocatable: false });
    expectBootError(() => load(kernel), 'ENO_ROOM', /does not fit/);
  });

  test('where init_size is more than the memory, with both sizes in the message', () => {
    const kernel = buildBzImage({ initSize: 100 * MIB });
    expectBootError(() => load(kernel), 'ENO_ROOM', /needs memory up to 116 MiB, the VM's ends at 64 MiB/);
  });

  test('where it ends exactly one byte above the memory, and not where it ends with it', () => {
    expect(load(buildBzImage({ initSize: 48 * MIB })).kernel.size).toBe(48 * MIB);
    expectBootError(() => load(buildBzImage({ initSize: 48 * MIB + 1 })), 'ENO_ROOM', /up to 65 MiB/);
  });

  test('where the command line is longer than it takes', () => {
    const kernel = buildBzImage({ cmdlineSize: 100 });
    expect(stringAt(load(kernel, { cmdline: 'x'.repeat(100) }).memory, CMDLINE)).toHaveLength(100);
    expectBootError(
      () => load(kernel, { cmdline: 'x'.repeat(101) }),
      'ECMDLINE',
      /has 101 bytes.*at most 100/,
    );
  });

  test('where the command line has more bytes than the machine has room for, whatever the kernel takes', () => {
    const kernel = buildBzImage({ cmdlineSize: 0xffff_ffff });
    expectBootError(() => load(kernel, { cmdline: 'x'.repeat(65536) }), 'ECMDLINE', /at most 65535/);
  });

  test('where the command line has a NUL', () => {
    expectBootError(() => load(buildBzImage(), { cmdline: 'a\0b' }), 'ECMDLINE', /NUL/);
  });

  test('where the memory ends with the first MiB', () => {
    const e820 = e820Map(2 * MIB).filter(({ base }) => base !== MIB);
    expectBootError(() => load(buildBzImage(), { ram: MIB, e820 }), 'ENO_ROOM', /too little memory/);
  });
});

test('nothing is written where a kernel is refused for its initrd', () => {
  const { memory, bytes } = guardedMemory(64 * MIB);
  const options = {
    kernel: bytesSource('kernel', buildBzImage()),
    initrds: [initrd('big', new Uint8Array(64 * MIB))],
    cmdline: '',
    rsdp: RSDP,
    e820: e820Map(64 * MIB),
  };
  expectBootError(() => loadLinux(memory, options), 'ENO_ROOM', /initrd big does not fit/);
  expect(Buffer.alloc(64 * MIB).equals(bytes)).toBe(true);
});
