import { expect, test } from 'vitest';
import { e820Map, GIB, MIB, PCI_HOLE } from '../../../src/boot/layout.ts';
import { loadLinux } from '../../../src/boot/load.ts';
import { bytesSource } from '../../../src/boot/source.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';
import { buildBzImage, pattern, sampleVmlinux } from '../../support/kernels.ts';
import { expectBootError, initrd, load } from './support.ts';

test('one initrd lies at the top of memory, page aligned', () => {
  const { memory, initrd: range } = load(sampleVmlinux(), { initrds: [initrd('i', pattern(10_000, 3))] });
  expect(range).toEqual({ base: 64 * MIB - 3 * 4096, size: 10_000 });
  expect(memory.read(range!.base, 10_000)).toEqual(pattern(10_000, 3));
});

test('several lie one behind the other, each from a multiple of 4, zeroes between', () => {
  const parts = [pattern(5, 1), pattern(8, 2), pattern(3, 3)];
  const memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(64 * MIB).fill(0xff) }]);
  const { initrd: range } = load(
    sampleVmlinux(),
    { initrds: parts.map((bytes, i) => initrd(`${i}`, bytes)) },
    memory,
  );
  expect(range!.size).toBe(8 + 8 + 3);
  const expected = Uint8Array.of(...parts[0]!, 0, 0, 0, ...parts[1]!, ...parts[2]!);
  expect(memory.read(range!.base, range!.size)).toEqual(expected);
});

test('a kernel that says so gets it below its limit', () => {
  const kernel = buildBzImage({ xloadflags: 1, initrdAddrMax: 0x2ff_ffff });
  const { initrd: range } = load(kernel, { initrds: [initrd('i', pattern(4096, 1))] });
  expect(range!.base).toBe(0x2ff_f000);
});

test('a limit in the midst of a page is kept to', () => {
  const kernel = buildBzImage({ xloadflags: 1, initrdAddrMax: 0x2ff_f7ff });
  const { initrd: range } = load(kernel, { initrds: [initrd('i', pattern(4096, 1))] });
  expect(range!.base).toBe(0x2ff_e000);
});

test('a kernel that may be loaded above 4 GiB still gets it below the device hole, above its old limit', () => {
  const size = 4 * GIB;
  // Only the pages that are touched exist; two windows because one ends at 2 GiB.
  const memory = new GuestMemory([
    { base: 0, bytes: new Uint8Array(2 * GIB) },
    { base: 2 * GIB, bytes: new Uint8Array(PCI_HOLE - 2 * GIB) },
    { base: 4 * GIB, bytes: new Uint8Array(1 * GIB) },
  ]);
  const loaded = loadLinux(memory, {
    kernel: bytesSource('kernel', buildBzImage({ xloadflags: 3, initrdAddrMax: 0x7fff_ffff })),
    initrds: [initrd('i', pattern(100, 1))],
    cmdline: '',
    rsdp: 0,
    e820: e820Map(size),
  });
  expect(loaded.initrd!.base).toBe(PCI_HOLE - 4096);
  expect(memory.read(PCI_HOLE - 4096, 100)).toEqual(pattern(100, 1));
});

test('one that crosses from a memory window into the next is whole', () => {
  const memory = new GuestMemory([
    { base: 0, bytes: new Uint8Array(64 * MIB - 5000) },
    { base: 64 * MIB - 5000, bytes: new Uint8Array(5000) },
  ]);
  const bytes = pattern(8192, 5);
  const { initrd: range } = load(sampleVmlinux(), { initrds: [initrd('i', bytes)] }, memory);
  expect(range!.base).toBe(64 * MIB - 8192);
  expect(memory.read(64 * MIB - 8192, 8192)).toEqual(bytes);
});

test('it may fill memory down to the end of the kernel, and not one page more', () => {
  const kernel = buildBzImage({ initSize: 2 * MIB });
  const fits = load(kernel, { initrds: [initrd('i', new Uint8Array(46 * MIB))] });
  expect(fits.initrd!.base).toBe(18 * MIB);
  expectBootError(
    () => load(kernel, { initrds: [initrd('i', new Uint8Array(46 * MIB + 1))] }),
    'ENO_ROOM',
    /^initrd i does not fit: 47 MiB between kernel, which ends at 0x1200000, and the VM's end of memory, 0x4000000/,
  );
});

test("one that is too big for the kernel's limit is refused with that limit", () => {
  const kernel = buildBzImage({ xloadflags: 1, initrdAddrMax: 0 });
  expectBootError(
    () => load(kernel, { initrds: [initrd('i', pattern(10, 1))] }),
    'ENO_ROOM',
    /that kernel's limit for it, 0x1$/,
  );
});

test('an empty one is refused', () => {
  const empty = [initrd('good', pattern(10, 1)), initrd('empty.img', new Uint8Array(0))];
  expectBootError(() => load(sampleVmlinux(), { initrds: empty }), 'EINITRD', /^initrd empty\.img is empty$/);
});
