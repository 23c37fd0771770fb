import { gzipSync } from 'node:zlib';
import { ACPI_TABLES, e820Map, HIGH_RAM, MIB } from '../../../src/boot/layout.ts';
import { loadLinux } from '../../../src/boot/load.ts';
import { bytesSource } from '../../../src/boot/source.ts';
import { BootError } from '../../../src/boot/types.ts';
import { unpackKernel } from '../../../src/boot/unpack.ts';
import { countNamed, damagedKernels, type DamagedFile } from '../../support/damaged-kernels.ts';
import { buildBzImage, guardedMemory, pattern, sampleVmlinux } from '../../support/kernels.ts';
import type { FuzzTarget } from '../engine.ts';
import type { Random } from '../random.ts';

const RAM = 48 * MIB;

const vmlinux = sampleVmlinux();
const files = {
  bzImage: buildBzImage({ payload: gzipSync(vmlinux) }),
  vmlinux,
  initrd: pattern(20_000, 8),
};
const named = countNamed(files);
const { memory, intact } = guardedMemory(RAM);

/** Any of the damages that have names, or one of the random ones behind them. */
function damage(random: Random): DamagedFile {
  let left = random.below(2 * named);
  for (const each of damagedKernels(files, random.word())) if (left-- === 0) return each;
  throw new Error('the generator ends');
}

/** Only an error of one line is a refusal; whatever else is thrown is a fault. */
function refused(error: unknown): void {
  if (!(error instanceof BootError)) throw error;
  if (!/^[^\n]{10,400}$/.test(error.message)) throw new Error(`no message for a person: ${error.message}`);
}

/** Damaged kernels and initrds: loaded to where they may be, or refused; nothing is written outside RAM. */
export const bootTarget: FuzzTarget = {
  name: 'boot',
  run: async (random) => {
    const damaged = damage(random);
    const bytes = damaged.make();
    try {
      let kernel = damaged.of === 'initrd' ? files.bzImage : bytes;
      if (damaged.of === 'bzImage' && random.oneIn(2)) {
        kernel = (await unpackKernel(bytesSource('kernel', bytes), true)).bytes;
      }
      const loaded = loadLinux(memory, {
        kernel: bytesSource('kernel', kernel),
        initrds: [bytesSource('initrd', damaged.of === 'initrd' ? bytes : files.initrd, 'initrd')],
        cmdline: 'console=ttyS0',
        rsdp: ACPI_TABLES,
        e820: e820Map(RAM),
      });
      const { base, size } = loaded.kernel;
      if (base < HIGH_RAM || base + size > RAM) throw new Error(`${damaged.name}: the kernel is not in RAM`);
      if (loaded.entry.rip < base || loaded.entry.rip >= base + size)
        throw new Error(`${damaged.name}: the entry point is not in the kernel`);
    } catch (error) {
      refused(error);
    }
    if (!intact()) throw new Error(`${damaged.name}: a write outside RAM`);
  },
};
